"""Methods by name, and what is made of what a user asked for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from fastad.base.errors import UserError, unknown
from fastad.histories.histories import Histories
from fastad.methods.ad import AlgorithmDistillation, Target
from fastad.methods.decision_transformer import DecisionTransformer
from fastad.methods.dpt import DecisionPretraining
from fastad.methods.rl2 import RL2
from fastad.methods.rl2_config import RL2Config
from fastad.methods.windows import WindowSampler, check_disjoint

# What a target is called wherever results are shown, where it is more than what the source did.
TARGET_WORDS: dict[str, str] = {
    "policy": "",
    "sampled": "",
    "final": "look-ahead labels",
    "expert": "expert labels: told the task",
}


class Entry(NamedTuple):
    """A method.

    Attributes:
        title: What it is called in tables and pictures.
        build: Makes it from a dataset and settings: what learns from histories from a target and
            those of `WindowSampler`, what learns by reward from those of its own class.
        asked: Whether its models are asked for a return.
    """

    title: str
    build: Callable[..., AlgorithmDistillation | RL2]
    asked: bool = False


def _distil(
    dataset: Histories, *, target: Target, auxiliary_weight: float = 0.0, **windows: Any
) -> AlgorithmDistillation:
    """AD: imitate the source over its whole learning."""
    sampler = WindowSampler(dataset, **windows)
    return AlgorithmDistillation(sampler, target, auxiliary_weight=auxiliary_weight)


def _distil_expert(
    dataset: Histories, *, target: Target, start: str, subsample: str, **windows: Any
) -> AlgorithmDistillation:
    """Expert distillation: imitate the source as it ended, over the last steps of its histories."""
    if subsample != "every-kth" or start == "anywhere":
        raise UserError(
            f"method=expert-distillation shows the end of every history, and start={start}, "
            f"subsample={subsample} ask for more of it; leave them out, or use --method ad"
        )
    return _distil(dataset, target=target, start="end", subsample=subsample, **windows)


def _condition(
    dataset: Histories, *, target: Target, auxiliary_weight: float = 0.0, **windows: Any
) -> DecisionTransformer:
    """The decision transformer: imitate the source, given what its episodes return."""
    sampler = WindowSampler(dataset, **windows)
    return DecisionTransformer(sampler, target, auxiliary_weight=auxiliary_weight)


def _pretrain(
    dataset: Histories,
    *,
    target: Target,
    unordered: bool = False,
    auxiliary_weight: float = 0.0,
    **windows: Any,
) -> DecisionPretraining:
    """DPT: imitate an expert over histories of whoever learned."""
    sampler = WindowSampler(dataset, **windows)
    return DecisionPretraining(
        sampler, target, unordered=unordered, auxiliary_weight=auxiliary_weight
    )


def _reinforce(dataset: Histories, *, config: RL2Config, **sizes: int) -> RL2:
    """RL^2: act in the environment, on the train tasks, and be reinforced."""
    check_disjoint(dataset)
    family = dataset.info.family(dataset.path)
    tasks = torch.from_numpy(dataset.train_tasks)
    return RL2(family, tasks, config=config, **sizes)


METHODS = {
    "ad": Entry("algorithm distillation", _distil),
    "expert-distillation": Entry("expert distillation", _distil_expert),
    "decision-transformer": Entry("decision transformer", _condition, asked=True),
    "dpt": Entry("DPT", _pretrain),
    "rl2": Entry("RL^2", _reinforce),
}


def make_method(name: str, dataset: Histories, **settings: Any) -> AlgorithmDistillation | RL2:
    """The method called `name`, of a dataset.

    Args:
        name: A key of `METHODS`.
        dataset: To learn from.
        **settings: See `Entry.build`.

    Raises:
        UserError: If there is no such method, or settings or dataset do not suit it.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name].build(dataset, **settings)


def told(
    name: str, target: str, target_return: float | None, auxiliary: Sequence[str] = ()
) -> list[str]:
    """What a trained model is told that its source was not, in training and at rollout.

    Args:
        name: Of its method.
        target: What it was held to.
        target_return: That it is asked for, if not the optimum.
        auxiliary: What its encoder is told besides, in training.
    """
    labels = TARGET_WORDS.get(target, target)
    words = [labels] if labels else []
    if auxiliary:
        words.append(f"auxiliary loss: told {' and '.join(auxiliary)} in training")
    if name in METHODS and METHODS[name].asked:
        is_optimum = target_return is None
        words.append(
            "told the optimum" if is_optimum else f"asked for a return of {target_return:g}"
        )
    return words


def label(
    name: str, target: str, target_return: float | None = None, auxiliary: Sequence[str] = ()
) -> str:
    """What a trained model is called, with what it is told; see `told`."""
    title = METHODS[name].title if name in METHODS else name
    return ", ".join([title, *told(name, target, target_return, auxiliary)])
