"""A result from what a model did: its source and chance are put beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastad.base.provenance import describe_machine
from fastad.evaluate.result import Baseline, Result, wide
from fastad.evaluate.task_set import TaskSet, Trial
from fastad.methods.registry import label
from fastad.rollouts.agent import Control
from fastad.rollouts.prompt import Prompt


def measure(
    trial: Trial,
    *,
    method: str = "ad",
    target: str = "policy",
    target_return: float | None = None,
    auxiliary: Sequence[str] = (),
    run: str | None = None,
    updates: int | None = None,
    asked: Mapping[str, Any] | None = None,
    control: Control = "none",
    greedy: bool = False,
    kv_cache: bool = True,
    trained_episodes: int | None = None,
    context: int | None = None,
    trained_context: int | None = None,
    prompt: Prompt | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    keep_actions: bool = False,
) -> Result:
    """Let the source and chance act on the tasks of a trial, and put all beside each other.

    Args:
        trial: Of the frozen model.
        method: By which the model was trained.
        target: What it was held to.
        target_return: That it was asked for, if not the optimum; for models that are.
        auxiliary: What its encoder was told besides, in training, by name.
        run: See `Result`, as the following.
        updates: Of the checkpoint that acted.
        asked: Settings of the rollout.
        control: What was hidden from the model.
        greedy: Whether it took the most probable action.
        kv_cache: Whether keys and values were kept.
        trained_episodes: Episodes that the training windows showed.
        context: Attention window of the rollout, in tokens.
        trained_context: Attention window in training.
        prompt: What came first in every context.
        baselines: Who else was tried on the very tasks with the same seed; tried now if left out.
        keep_actions: Whether the result holds every action.
    """
    tasks, info, own = trial.tasks, trial.tasks.info, _returned(trial)
    return Result(
        label=label(method, target, target_return, auxiliary),
        method=method,
        env=info.env,
        split=tasks.split,
        control=control,
        returns=own.returns,
        tasks=wide(tasks.tasks),
        versions=describe_machine(),
        seed=tasks.seed,
        env_options=info.env_kwargs,
        greedy=greedy,
        kv_cache=kv_cache,
        steps_per_second=trial.result.steps_per_second,
        run=run,
        updates=updates,
        asked=asked or {},
        trained_episodes=trained_episodes,
        context=context,
        trained_context=trained_context,
        prompt="" if prompt is None else prompt.told,
        prompt_episodes=0 if prompt is None else prompt.num_episodes,
        prompt_return=None if prompt is None else prompt.mean_return,
        source=info.source,
        source_options=info.source_kwargs,
        source_knows=tasks.source_knows,
        source_action_noise=info.action_noise,
        noise_labels=info.noise_labels,
        optimal_return=tasks.optimal_return(),
        task_optima=tasks.task_optima(),
        baselines=_try_others(tasks, own) if baselines is None else baselines,
        regret=own.regret,
        actions=wide(trial.actions.cpu()) if keep_actions else None,
    )


def _try_others(tasks: TaskSet, own: Baseline) -> dict[str, Baseline]:
    """The source, with and without its noise, chance, and UCB1 beside other bandit rules."""
    info = tasks.info
    others = {"source": tasks.baseline(), "random": tasks.baseline("random")}
    if info.action_noise > 0:
        others["source_clean"] = tasks.baseline(noise=False)
    if own.regret is not None and info.source != "ucb1":
        others["ucb1"] = tasks.baseline("ucb1")  # what bandits are usually compared with
    return {
        name: _returned(other, tasks.episodes_per_episode if "source" in name else 1)
        for name, other in others.items()
        if other is not None
    }


def _returned(trial: Trial, episodes_per_episode: int = 1) -> Baseline:
    regret = None if trial.regret is None else trial.regret.numpy()
    return Baseline(trial.result.returns.numpy(), regret, episodes_per_episode)
