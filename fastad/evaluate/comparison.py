"""What several methods returned on the same tasks over training seeds, set beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fastad.base.config import format_options
from fastad.evaluate.metrics import Tasks, task_means
from fastad.evaluate.result import Result

Kind = Literal[
    "method", "control", "source", "source_own_episodes", "source_as_it_acted", "baseline", "random"
]


@dataclass(frozen=True)
class Setting:
    """One value of a setting that a comparison varies."""

    name: str
    value: bool | int | float | str | None

    def __str__(self) -> str:
        return format_options({self.name: self.value})[0]


@dataclass(frozen=True, eq=False)
class Entry:
    """One rollout, and what it does not know of the run that it is of.

    Attributes:
        name: Tells runs of one label apart: a method, a variant, or the folder of a run.
        seed: Of the training.
        result: Of the rollout.
        train_seconds: Spent on updates.
        setting: With which it was trained, where one is varied.
    """

    name: str
    seed: int
    result: Result
    train_seconds: float | None = None
    setting: Setting | None = None


@dataclass(frozen=True, eq=False)
class Tried:
    """Rollouts of one training seed.

    Attributes:
        returns: (N, E), rollouts of one task in a row.
        tasks: A name for each of the P tasks.
        regret: (N,) where the tasks are bandits.
        optima: What an optimal policy returns on each task, (P,); None where unknown.
        train_seconds: Spent on updates, of what was trained.
        steps_per_second: Of what was rolled out.
    """

    returns: np.ndarray
    tasks: Tasks
    regret: np.ndarray | None = None
    optima: np.ndarray | None = None
    train_seconds: float | None = None
    steps_per_second: float | None = None

    @property
    def task_returns(self) -> np.ndarray:
        """Every task's mean return per episode, (P, E) float64."""
        return task_means(self.returns, len(self.tasks))

    @property
    def task_optima(self) -> np.ndarray:
        """Of each task, (P,); all alike where they are not known."""
        return np.zeros(len(self.tasks)) if self.optima is None else self.optima


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a figure, one row of a table.

    Attributes:
        label: Its name, privileged knowledge included.
        kind: What it is.
        tried: By training seed; of a source, by the seed of the rollouts that it stands beside.
        episodes_per_episode: Environment episodes that its learner plays for each of `tried`.
        method: As the registry has it; "" where it is none.
        source: The label of the source that it learned from, as a learner without noise.
        of: The label of the line that this is another look at: a control's method, and the source
            of one that is counted or acts otherwise.
        setting: The value that it is of, where one is varied; None for what is of all values.
        series: What lines that differ by that value alone are called together.
    """

    label: str
    kind: Kind
    tried: Mapping[int, Tried]
    episodes_per_episode: int = 1
    method: str = ""
    source: str = ""
    of: str = ""
    setting: Setting | None = None
    series: str = ""

    @property
    def num_episodes(self) -> int:
        """Environment episodes per learner: as many as the shortest of its rollouts has."""
        shortest = min(tried.returns.shape[1] for tried in self.tried.values())
        return shortest * self.episodes_per_episode

    def curve(self, seed: int, num_episodes: int | None = None) -> np.ndarray:
        """Every task's mean return in each environment episode, (P, episodes) float64.

        The episodes that parallel actors play at once return alike.
        """
        repeated = np.repeat(self.tried[seed].task_returns, self.episodes_per_episode, axis=1)
        return repeated[:, : num_episodes or self.num_episodes]

    def area(self, seed: int, num_episodes: int) -> np.ndarray:
        """Every task's mean return over the first environment episodes, (P,)."""
        means: np.ndarray = self.curve(seed, num_episodes).mean(axis=1)
        return means

    def final(self, seed: int) -> np.ndarray:
        """Every task's mean return at the end, see `final_episodes`, (P,)."""
        returns = self.tried[seed].task_returns
        means: np.ndarray = returns[:, -final_episodes(returns.shape[1]) :].mean(axis=1)
        return means

    def regrets(self) -> dict[int, np.ndarray] | None:
        """By seed each task's mean regret over all pulls, (P,); None where these are no bandits."""
        found = {s: t.regret for s, t in self.tried.items() if t.regret is not None}
        if len(found) < len(self.tried):
            return None
        return {s: task_means(regret, len(self.tried[s].tasks)) for s, regret in found.items()}

    @property
    def lengths(self) -> set[int]:
        """Of its rollouts, in episodes: regrets over as many pulls alone are comparable."""
        return {tried.returns.shape[1] for tried in self.tried.values()}


def final_episodes(num_episodes: int) -> int:
    """How many episodes are the end: the last tenth, but three where there are as many."""
    return max(min(3, num_episodes), num_episodes // 10)


@dataclass(frozen=True, eq=False)
class Family:
    """Everything that was tried in one environment with its options.

    Attributes:
        env: The environment.
        env_options: Its options.
        split: Where the tasks are from.
        lines: Methods first, in the order they were given; then controls, sources, others, chance.
        optimal_return: Mean over all tasks; None where unknown.
        knows: Lines on what sources are told.
        versions: Of the first rollout.
    """

    env: str
    env_options: Mapping[str, Any]
    split: str
    lines: tuple[Line, ...]
    optimal_return: float | None = None
    knows: tuple[str, ...] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)

    def of_kind(self, *kinds: Kind) -> list[Line]:
        """The lines of some kinds, in order."""
        return [line for line in self.lines if line.kind in kinds]

    @property
    def seeds(self) -> list[int]:
        """Training seeds of any method."""
        return sorted({seed for line in self.of_kind("method") for seed in line.tried})

    @property
    def num_episodes(self) -> int:
        """Environment episodes of the longest rollouts."""
        return max(line.num_episodes for line in self.of_kind("method", "control"))

    @property
    def varied(self) -> str | None:
        """The name of the setting that is varied; None where none is."""
        return next((line.setting.name for line in self.lines if line.setting), None)

    @property
    def reference(self) -> Line | None:
        """Plain AD, the first of its kind; None where nothing is of that method."""
        return next((line for line in self.of_kind("method") if line.method == "ad"), None)

    @property
    def random_return(self) -> float | None:
        """What chance returns per episode; None where it was not tried."""
        for line in self.of_kind("random"):
            return float(np.mean([tried.task_returns.mean() for tried in line.tried.values()]))
        return None

    @property
    def scale(self) -> tuple[float, float] | None:
        """The returns that score 0 and 1: chance and an optimum; None where one is unknown."""
        zero, one = self.random_return, self.optimal_return
        return None if zero is None or one is None or one <= zero else (zero, one)

    def line(self, label: str) -> Line | None:
        """The first line of that label."""
        return next((line for line in self.lines if line.label == label), None)
