"""How a comparison trains each method of a preset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, get_args

from torch import Generator

from fastad.base.config import parse_options, with_settings
from fastad.base.errors import UserError, unknown
from fastad.configs import DEFAULTS, CollectConfig, RolloutConfig, TrainConfig
from fastad.envs.family import TaskFamily
from fastad.envs.registry import make_family
from fastad.histories.labels import Label
from fastad.methods.registry import METHODS
from fastad.sources.expert import Expert

END = 4  # the part of a history that is its end: the last quarter


class Experiment(Protocol):
    """What a `fastad.Preset` is, as far as a comparison asks."""

    @property
    def collect(self) -> CollectConfig: ...  # noqa: D102

    @property
    def train(self) -> TrainConfig: ...  # noqa: D102

    @property
    def rollout(self) -> RolloutConfig: ...  # noqa: D102

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]: ...  # noqa: D102


def plans_of(experiment: Experiment, names: Sequence[str] = ()) -> dict[str, TrainConfig]:
    """How the named methods and variants are trained, in this order; all there are by default.

    A method is trained as the preset trains plain AD, but for what it cannot share; one that reads
    no histories by its own defaults. A variant changes what the preset says of it, also where it
    has the name of a method. What needs an expert's labels is left out where the environment has no
    expert, unless it is named.

    Raises:
        UserError: For a name that is neither, or stands there twice, or settings that cannot be.
    """
    known: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS}
    for name, changes in experiment.variants.items():
        known[name] = known.get(name, {}) | dict(changes)
    for name in names:
        if name not in known:
            raise unknown("methods", name, known)
        if names.count(name) > 1:
            raise UserError(f"methods={' '.join(names)}: {name} is there twice; name it once")
    plans = {name: _plan(name, known[name], experiment) for name in names or known}
    if not names and not _has_expert(experiment):
        plans = {name: plan for name, plan in plans.items() if plan.settings.target != "expert"}
    return plans


def labels_of(experiment: Experiment, plans: Iterable[TrainConfig]) -> tuple[Label, ...]:
    """What the histories hold besides the source's own: all that anything there is learns from.

    Whatever is compared today, so that what is compared tomorrow finds the same dataset.
    """
    wanted = {plan.settings.target for plan in (*plans, *plans_of(experiment).values())}
    wanted |= set(experiment.collect.labels)
    return tuple(label for label in get_args(Label) if label in wanted)


def _plan(name: str, changes: dict[str, Any], experiment: Experiment) -> TrainConfig:
    """The preset's training with changes; of a method that reads no histories, its own."""
    plain, method = experiment.train, changes.get("method", "ad")
    if method == "rl2":
        plain = replace(DEFAULTS["rl2"], env=plain.env, kernels=plain.kernels)
    changes = _changes(method, experiment) | changes
    return with_settings(plain, changes, f"the preset's {name}")


def episodes_of(experiment: Experiment) -> int:
    """Episodes of a rollout: as the preset has it, or as many as a window of plain AD shows."""
    if experiment.rollout.episodes is not None:
        return experiment.rollout.episodes
    settings, num_episodes = experiment.train.settings, experiment.collect.num_episodes
    if settings.window is None:
        return num_episodes // settings.every_kth_episode
    return max(1, settings.window // episode_length_of(experiment))


def _changes(method: str, experiment: Experiment) -> dict[str, Any]:
    """What a method cannot share with plain AD."""
    changes: dict[str, Any] = {}
    if method == "expert-distillation":
        # The source as it ended: the whole history is what it has not to see.
        episodes = max(1, experiment.collect.num_episodes // END)
        changes |= {"start": "history", "subsample": "every-kth", "every_kth_episode": 1,
                    "window": episodes * episode_length_of(experiment)}  # fmt: skip
    if method == "decision-transformer":
        changes |= {"start": "anywhere", "subsample": "every-kth", "target": "sampled"}
    if method == "dpt":
        changes |= {"target": "expert"}
    return changes


def episode_length_of(experiment: Experiment) -> int:
    """Steps of an episode at most."""
    return _family(experiment).spec().episode_length


def _has_expert(experiment: Experiment) -> bool:
    family, generator = _family(experiment), Generator()
    tasks = family.tasks()
    if tasks is None:
        tasks = family.sample(1, "train", generator)
    return Expert.fits(family.make(tasks[:1], generator))


def _family(experiment: Experiment) -> TaskFamily:
    options = parse_options("env_options", experiment.collect.env_options)
    return make_family(experiment.collect.env, **options)
