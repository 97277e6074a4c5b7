"""Rollouts on the tasks of a dataset, beside what its source, chance and an optimum return."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad.acting.interact import Joined, Transition, episode_returns
from fastad.base.errors import UserError
from fastad.base.trust import check_calls
from fastad.envs.base import BatchedEnv
from fastad.envs.family import Split
from fastad.envs.registry import check_env, is_known, make_family
from fastad.evaluate.metrics import task_means
from fastad.evaluate.put_into import put_into
from fastad.evaluate.split_rollout import split_rollout
from fastad.histories.learning import run_source
from fastad.histories.reader import load_description
from fastad.histories.schema import INFO_FILE, DatasetInfo
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.engine import RolloutResult, rollout
from fastad.sources.base import Source
from fastad.sources.registry import is_at_hand, make_source, source_class
from fastad.training.run_files import DATASET, check_run, run_of

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskSet:
    """Tasks on which a model is tried, each several times.

    Attributes:
        info: Of the dataset: environment and source.
        tasks: (P, K), distinct.
        repeats: Rollouts per task.
        seed: Of everything random in the environments and the actions.
        split: Where the tasks are from.
    """

    info: DatasetInfo
    tasks: Tensor
    repeats: int
    seed: int
    split: Split = "test"

    def __post_init__(self) -> None:
        if not is_known(self.info.env):
            raise UserError(
                f"env={self.info.env!r} is a label of histories from elsewhere: there is no such "
                "environment here, and nobody can act in it; roll out with --env gym:ID or --env "
                "package.module:callable, or create the dataset with the name of one"
            )
        check_calls(self.info.calls(), INFO_FILE)
        if len(self.tasks) == 0:
            raise UserError(
                f"the {self.split} split is empty; collect with --num-{self.split}-tasks 1 or more"
            )
        if self.repeats < 1:
            raise UserError(f"rollouts_per_task={self.repeats} must be at least 1")

    @property
    def rows(self) -> Tensor:
        """Every rollout's task, (P * repeats, K)."""
        return self.tasks.repeat_interleave(self.repeats, dim=0)

    @property
    def groups(self) -> Tensor:
        """Every rollout's index into `tasks`, (P * repeats,)."""
        return torch.arange(len(self.tasks)).repeat_interleave(self.repeats)

    def generator(self, device: torch.device | str) -> torch.Generator:
        """A fresh generator of this seed."""
        return torch.Generator(device).manual_seed(self.seed)

    def make_env(self, generator: torch.Generator) -> BatchedEnv:
        """One environment per rollout."""
        family = make_family(self.info.env, **self.info.env_kwargs)
        return family.make(self.rows.to(generator.device), generator)

    @property
    def source_knows(self) -> str:
        """What the dataset's source is told beyond what it experiences.

        The source itself is asked where it is at hand: older datasets tell less.
        """
        learner = self._learner()
        return self.info.source_knows if learner is None else learner.knows

    @property
    def episodes_per_episode(self) -> int:
        """Episodes that the dataset's source plays while its history gains one."""
        learner = self._learner()
        return 1 if learner is None else learner.episodes_per_episode

    def _learner(self) -> Source | None:
        """One learner of the dataset's source; None where it is not at hand."""
        info = self.info
        if not is_at_hand(info.source):
            return None
        generator = self.generator("cpu")
        env = make_family(info.env, **info.env_kwargs).make(self.tasks[:1], generator)
        return make_source(
            info.source, env, num_episodes=1, generator=generator, **info.source_kwargs
        )

    def task_optima(self) -> list[float] | None:
        """Of each of the P tasks; None where the environment does not know it."""
        optimal = self.make_env(self.generator("cpu")).optimal_return()
        if optimal is None:
            return None
        return [float(value) for value in optimal[:: self.repeats]]

    def optimal_return(self) -> float | None:
        """Mean over tasks; None where the environment does not know it."""
        optimal = self.make_env(self.generator("cpu")).optimal_return()
        return None if optimal is None else optimal.mean().item()

    def baseline(self, source: str | None = None, *, noise: bool = True) -> "Trial | None":
        """The dataset's source, or another, learning these tasks from scratch.

        None where the histories came from something that cannot be run again here, such as the
        rollouts of a model.

        Args:
            source: Another source than the dataset's, without options and action noise.
            noise: Whether the dataset's source acts with its action noise, as it did there.
        """
        began = time.perf_counter()
        run = self.histories(source, noise=noise, keep_observed=False)
        if run is None:
            return None
        seconds = time.perf_counter() - began
        num_episodes = self.info.num_steps // self.info.episode_length
        returns = episode_returns(run.reward, run.terminated | run.truncated, num_episodes)
        result = RolloutResult(returns, seconds, run.reward.numel())
        learned = replace(self, repeats=len(run.reward) // len(self.tasks))
        return Trial(result, learned, run.action)

    def histories(
        self, source: str | None = None, *, noise: bool = True, keep_observed: bool = True
    ) -> Transition | None:
        """What `baseline` is reckoned from: every learner's history, (N, T, ...); see `run_source`.

        A source with a loop of its own takes long: there is one history of every task, (P, T, ...).
        """
        own = source is None
        name = self.info.source if source is None else source
        if not is_at_hand(name):
            return None
        tasks = self.rows
        if source_class(name).owns_loop:
            tasks = self.tasks
            _logger.info("%s learns %d %s tasks from scratch", name, len(tasks), self.split)
        return run_source(
            self.info.env,
            tasks,
            env_kwargs=self.info.env_kwargs,
            source=name,
            source_kwargs=self.info.source_kwargs if own else {},
            num_episodes=self.info.num_steps // self.info.episode_length,
            action_noise=self.info.action_noise if own and noise else 0.0,
            seed=self.seed,
            keep_observed=keep_observed,
        )


@dataclass(frozen=True)
class Trial:
    """A rollout on a task set.

    Attributes:
        result: Returns, rollouts of one task in a row.
        tasks: On which it was.
        actions: (N, T).
    """

    result: RolloutResult
    tasks: TaskSet
    actions: Tensor

    @property
    def task_returns(self) -> np.ndarray:
        """Every task's mean return per episode, (P, episodes)."""
        return task_means(self.result.returns, len(self.tasks.tasks))

    @property
    def regret(self) -> Tensor | None:
        """Pseudo-regret over all pulls, (N,), where the tasks are bandits."""
        return self.tasks.make_env(self.tasks.generator("cpu")).regret(self.actions.cpu())

    @property
    def mean(self) -> np.ndarray:
        """Mean return per episode over tasks, (episodes,)."""
        mean: np.ndarray = self.task_returns.mean(axis=0)
        return mean


def load_task_set(
    run: Path,
    *,
    split: Split,
    num_tasks: int | None,
    repeats: int | None,
    seed: int,
    env: str | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> TaskSet:
    """Tasks of the dataset that a run was trained on, from the description kept in the run.

    Args:
        run: Run folder, or a checkpoint in one.
        split: Where the tasks are from.
        num_tasks: None takes all, at most 512.
        repeats: Rollouts on each; None takes enough for 128 in all.
        seed: See `TaskSet`.
        env: To act in, where the run's own is a label of histories from elsewhere.
        env_options: Of `env`.

    Raises:
        UserError: If the run is damaged, `env` does not fit it, or the split has no such number of
            tasks.
    """
    folder = run_of(run)
    check_run(folder)
    info, tasks = load_description(folder / DATASET)
    if not is_known(info.env):
        info, tasks = put_into(info, tasks, env, env_options or {})
    else:
        check_env(env, info.env, run)
    chosen = tasks[info.task_rows(split)]
    if len(chosen) and num_tasks is not None and not 1 <= num_tasks <= len(chosen):
        raise UserError(
            f"tasks={num_tasks} must lie between 1 and {len(chosen)}, the {split} tasks"
        )
    chosen = chosen[: num_tasks or 512]
    if repeats is None:
        repeats = max(1, 128 // max(len(chosen), 1))
    return TaskSet(info, torch.from_numpy(chosen), repeats, seed, split)


def try_model(
    model: SequenceModel,
    tasks: TaskSet,
    *,
    num_episodes: int,
    workers: int = 1,
    on_block: Callable[[Transition], None] | None = None,
    **options: Any,
) -> Trial:
    """Roll the frozen model out on `tasks`, in one process or several; see `rollout`."""
    actions = Joined(num_episodes * tasks.info.episode_length)

    def watch(block: Transition) -> None:
        actions.append(block.action)
        if on_block is not None:
            on_block(block)

    options |= {"num_episodes": num_episodes, "on_block": watch}
    if workers > 1 and len(tasks.rows) > 1:
        result = split_rollout(model, tasks, workers=workers, **options)
    else:
        generator = tasks.generator(next(model.parameters()).device)
        result = rollout(model, tasks.make_env(generator), generator=generator, **options)
    return Trial(result, tasks, actions.whole)
