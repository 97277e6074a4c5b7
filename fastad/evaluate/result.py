"""What a rollout returned, beside its source, chance and an optimum on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.base.config import checked
from fastad.base.errors import UserError
from fastad.base.extras import how_to_install
from fastad.base.files import read_json
from fastad.base.outputs import check_output, write_output
from fastad.envs.family import Split
from fastad.evaluate.figures import figures_of
from fastad.evaluate.metrics import task_means
from fastad.evaluate.plots import PICTURE_SUFFIXES, draw_result, write_figure
from fastad.rollouts.agent import Control

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MAX_BYTES = 2**30
# Fields that figures stand for, under names of their own in a file.
MEASURED = ("returns", "tasks", "baselines", "regret", "actions")
ROLL_OUT_AGAIN = "name a file that `fastad rollout` or Result.save wrote, or roll out again"


@dataclass(frozen=True, eq=False)
class Baseline:
    """Another learner on the tasks of a result, tried as often on each.

    Attributes:
        returns: (N, E'), float32; E' may differ from the result's E.
        regret: (N,) pseudo-regret over all pulls, float32; None where the tasks are no bandits.
        episodes_per_episode: Episodes that the learner plays for each of these: a source with K
            parallel actors plays K, of which its history holds one actor's.
    """

    returns: np.ndarray
    regret: np.ndarray | None = None
    episodes_per_episode: int = 1


@dataclass(frozen=True, eq=False)
class Result:
    """A rollout of a frozen model on tasks, each tried several times.

    Rollouts of one task stand in a row: rollout i is on task i // rollouts_per_task.

    >>> import fastad
    >>> result = fastad.rollout("runs/room", episodes=3, rollouts_per_task=4)
    >>> result.save("result.json")
    >>> fastad.Result.load("result.json").task_returns.shape  # of 2 tasks
    (2, 3)
    >>> figure = result.plot("result.png")

    Attributes:
        label: What acted, for tables and pictures.
        method: How it was trained: "ad", or another of `fastad train --method`.
        env: The environment.
        split: Where the tasks are from.
        control: What was hidden from the model; "none".
        returns: Return of every rollout and episode, (N, E) float32.
        tasks: The P tasks, distinct, (P, K) int64 or float64.
        versions: Of fastad and what it runs on, and the machine.
        seed: Of the environments and the actions.
        env_options: The environment's options.
        greedy: Whether it took the most probable action, or sampled.
        kv_cache: Whether it kept keys and values, or recomputed.
        steps_per_second: Environment steps per second, over all environments.
        run: The run folder or checkpoint that was rolled out.
        updates: Of the checkpoint that acted; None where unknown.
        asked: What was asked of the rollout, fields of `RolloutConfig` that may change a return.
        trained_episodes: Episodes that the training windows showed; None where unknown.
        context: Attention window of the rollout, in tokens; None where unknown, or there is none.
        trained_context: Attention window in training, likewise.
        prompt: What came first in every context, such as "episodes 0:5 of the source ucb1".
        prompt_episodes: How many episodes that was.
        prompt_return: Their mean return; None without a prompt.
        source: What generated the histories that the model was trained on.
        source_options: The source's options.
        source_knows: What the source is told beyond what it experiences.
        source_action_noise: The share of random actions in the histories.
        noise_labels: Whether the stored distributions leave that noise out.
        optimal_return: Expected return per episode of an optimal policy, mean over tasks; None
            where unknown.
        task_optima: The same for each of the P tasks.
        baselines: Who else was tried on the tasks: "source" as it acted, "source_clean" without
            its action noise, if it has any, "random" and, of bandits, "ucb1" where the source is
            another.
        regret: (N,) pseudo-regret over all pulls, float32; None where the tasks are no bandits.
        actions: Every rollout's actions, (N, T) int64, if they were asked for.

    Raises:
        UserError: If the rollouts are not so many for each task.
    """

    label: str
    method: str
    env: str
    split: Split
    control: Control
    returns: np.ndarray
    tasks: np.ndarray
    versions: Mapping[str, Any]
    seed: int
    env_options: Mapping[str, Any] = field(default_factory=dict)
    greedy: bool = False
    kv_cache: bool = True
    steps_per_second: float | None = None
    run: str | None = None
    updates: int | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    trained_episodes: int | None = None
    context: int | None = None
    trained_context: int | None = None
    prompt: str = ""
    prompt_episodes: int = 0
    prompt_return: float | None = None
    source: str = ""
    source_options: Mapping[str, Any] = field(default_factory=dict)
    source_knows: str = ""
    source_action_noise: float = 0.0
    noise_labels: str = "clean"
    optimal_return: float | None = None
    task_optima: Sequence[float] | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    regret: np.ndarray | None = None
    actions: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the shapes, with which every figure is reckoned."""
        shapes = (*self.returns.shape, *self.tasks.shape)
        if len(shapes) != 4 or 0 in shapes[:3]:
            raise UserError(
                f"returns {self.returns.shape} and tasks {self.tasks.shape} must be (N, E) and "
                "(P, K), none of them empty"
            )
        learners: dict[str, Result | Baseline] = {"": self, **self.baselines}
        for name, learner in learners.items():
            returns, regret = learner.returns, learner.regret
            of = f"baselines[{name!r}]." if name else ""
            if returns.ndim != 2 or 0 in returns.shape:
                raise UserError(f"{of}returns {returns.shape} must be (N, E), and not empty")
            if len(returns) % self.num_tasks:
                raise UserError(
                    f"{len(returns)} rollouts are not as many for each of {self.num_tasks} tasks"
                )
            if regret is not None and regret.shape != returns.shape[:1]:
                raise UserError(f"{of}regret {regret.shape} must be (N,), as returns have N rows")
        if self.actions is not None and self.actions.shape[:1] != self.returns.shape[:1]:
            raise UserError(f"actions {self.actions.shape} must be (N, T), as returns have N rows")
        if self.task_optima is not None and len(self.task_optima) != self.num_tasks:
            raise UserError(f"task_optima has {len(self.task_optima)} for {self.num_tasks} tasks")

    @property
    def num_tasks(self) -> int:
        """`P`."""
        return len(self.tasks)

    @property
    def num_episodes(self) -> int:
        """`E`, of each rollout."""
        return self.returns.shape[1]

    @property
    def rollouts_per_task(self) -> int:
        """How often each task was tried."""
        return len(self.returns) // self.num_tasks

    @property
    def task_returns(self) -> np.ndarray:
        """Every task's mean return per episode, (P, E) float64."""
        return task_means(self.returns, self.num_tasks)

    @property
    def trained_until(self) -> int | None:
        """The last of these episodes that lies within what training windows showed."""
        trained = self.trained_episodes
        return None if trained is None else max(0, trained - self.prompt_episodes)

    @property
    def conditions(self) -> str:
        """What was tried, in one line."""
        seen = {"train": "trained on", "validation": "for validation, never trained on"}
        told = [
            f"{self.num_tasks} tasks {seen.get(self.split, 'never trained on')}",
            f"{self.rollouts_per_task} rollouts each",
        ]
        if self.control != "none":
            told.append(f"control: {self.control}")
        if self.greedy:
            told.append("greedy actions")
        if self.prompt:
            known = "" if self.prompt_return is None else f" (return {self.prompt_return:.2f})"
            told.append(f"prompted with {self.prompt}{known}")
        windows = self.context, self.trained_context
        if None not in windows and self.context != self.trained_context:
            told.append(
                f"attention window {self.context:,} tokens, trained with {self.trained_context:,}"
            )
        return ", ".join(told)

    def figures(self) -> dict[str, Any]:
        """Everything that the table and the picture show, as plain JSON values by name.

        Means over tasks with their 95 % intervals, and differences from the baselines, task by
        task; these names are what `fastad rollout --json` writes.
        """
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in MEASURED}
        return facts | figures_of(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row per rollout and episode, which are counted from 1.

        Raises:
            UserError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                f"tables need pandas, which cannot be imported ({error}); run: "
                f"{how_to_install('pandas')}"
            ) from error
        rollout, episode = np.indices(self.returns.shape)
        told = {
            name: getattr(self, name) for name in ("label", "method", "env", "split", "control")
        }
        rows = {
            "task": rollout.ravel() // self.rollouts_per_task,
            "rollout": rollout.ravel() % self.rollouts_per_task,
            "episode": episode.ravel() + 1,
            "return": self.returns.ravel(),
        }
        return pandas.DataFrame(told | rows)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the return per episode with its interval, beside the baselines.

        Args:
            path: Where to write the picture, if anywhere: .png, .pdf or .svg.

        Returns:
            A figure of Matplotlib's, which no window shows.

        Raises:
            UserError: If the picture is of no kind that can be written, or not there.
        """
        if path is not None:
            check_output("path", Path(path), suffixes=PICTURE_SUFFIXES)
        figure = draw_result(self)
        if path is not None:
            write_figure(figure, Path(path))
        return figure

    def save(self, path: str | Path) -> None:
        """Write everything as JSON: all figures, and what they were reckoned from.

        Raises:
            UserError: If nothing can be written there.
        """
        check_output("path", Path(path))
        write_output(Path(path), self.to_json())

    def to_json(self) -> dict[str, Any]:
        """What `save` writes, as plain JSON values."""
        stored = self.figures() | {"rollout_returns": self.returns.tolist()}
        stored["rollout_regret"] = _listed(self.regret)
        stored["actions"] = _listed(self.actions)
        stored["baselines"] = {
            name: {
                "returns": other.returns.tolist(),
                "regret": _listed(other.regret),
                "episodes_per_episode": other.episodes_per_episode,
            }
            for name, other in self.baselines.items()
        }
        return stored

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read what `save` wrote, or a rollout's file of figures.

        Raises:
            UserError: If there is no such file, or it holds anything else.
        """
        file = Path(path)
        try:
            stored = read_json(file, fix=ROLL_OUT_AGAIN, limit=MAX_BYTES)
        except FileNotFoundError as error:
            raise UserError(f"path={file} does not exist; {ROLL_OUT_AGAIN}") from error
        if "returns" in stored and "rollout_returns" not in stored:
            raise UserError(
                f"{file} is of a fastad that kept means alone, not every rollout; roll out again"
            )
        try:
            return cls._of_json(stored)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(f"{file} holds no result ({error}); {ROLL_OUT_AGAIN}") from error

    @classmethod
    def _of_json(cls, stored: dict[str, Any]) -> Result:
        """From what `to_json` gives; its means are reckoned anew."""
        facts = {
            f.name: checked(f.name, stored[f.name], cls)
            for f in fields(cls)
            if f.name in stored and f.name not in MEASURED
        }
        measured = {
            "returns": _float32(stored["rollout_returns"]),
            "tasks": wide(stored["tasks"]),
            "regret": _float32(stored["rollout_regret"]),
            "actions": None if stored["actions"] is None else wide(stored["actions"]),
            "baselines": {
                name: Baseline(
                    _float32(other["returns"]),
                    _float32(other["regret"]),
                    checked("episodes_per_episode", other.get("episodes_per_episode", 1), Baseline),
                )
                for name, other in stored["baselines"].items()
            },
        }
        return cls(**facts | measured)


def _listed(values: np.ndarray | None) -> Any:
    return None if values is None else values.tolist()


def _float32(values: Any) -> Any:
    return None if values is None else np.asarray(values, dtype=np.float32)


def wide(values: Any) -> np.ndarray:
    """Numbers as JSON gives numbers back: whole ones as int64, others as float64."""
    array = np.asarray(values)
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
