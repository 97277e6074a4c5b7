"""What several methods returned on the same tasks over training seeds, set beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fastad.base.errors import UserError
from fastad.base.files import as_json
from fastad.evaluate.metrics import Tasks, task_means
from fastad.evaluate.result import Baseline, Result

Kind = Literal[
    "method", "control", "source", "source_own_episodes", "source_as_it_acted", "baseline", "random"
]


@dataclass(frozen=True, eq=False)
class Entry:
    """One rollout, and what it does not know of the run that it is of.

    Attributes:
        name: Tells runs of one label apart: a method, a variant, or the folder of a run.
        seed: Of the training.
        result: Of the rollout.
        train_seconds: Spent on updates.
    """

    name: str
    seed: int
    result: Result
    train_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Tried:
    """Rollouts of one training seed.

    Attributes:
        returns: (N, E), rollouts of one task in a row.
        tasks: A name for each of the P tasks.
        regret: (N,) where the tasks are bandits.
        train_seconds: Spent on updates, of what was trained.
        steps_per_second: Of what was rolled out.
    """

    returns: np.ndarray
    tasks: Tasks
    regret: np.ndarray | None = None
    train_seconds: float | None = None
    steps_per_second: float | None = None

    @property
    def task_returns(self) -> np.ndarray:
        """Every task's mean return per episode, (P, E) float64."""
        return task_means(self.returns, len(self.tasks))


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
    """

    label: str
    kind: Kind
    tried: Mapping[int, Tried]
    episodes_per_episode: int = 1
    method: str = ""
    source: str = ""
    of: str = ""

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


def families_of(entries: Sequence[Entry]) -> list[Family]:
    """Sort rollouts into environments, and in each into lines.

    Args:
        entries: Those of one name, label and control are one line, a seed each.

    Raises:
        UserError: If two are of the same line and seed, or there is none.
    """
    if not entries:
        raise UserError("nothing to compare; name a preset, or runs that `fastad train` wrote")
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        result = entry.result
        key = _key(result.env, result.env_options, result.split)
        found.setdefault(key, []).append(entry)
    return [_family(members) for members in found.values()]


def _family(entries: list[Entry]) -> Family:
    first = entries[0].result
    lines: dict[tuple[bool, str, str], list[Entry]] = {}
    labels = _labels(entries)
    for entry in entries:
        label, hidden = labels[entry.name, entry.result.label], entry.result.control
        lines.setdefault((hidden != "none", label, hidden), []).append(entry)
    methods = []
    for (is_control, label, control), members in sorted(lines.items(), key=lambda item: item[0][0]):
        name = f"{label}, control {control}" if is_control else label
        methods.append(
            Line(
                name, "control" if is_control else "method", _by_seed(name, members),
                method=members[0].result.method, source=_source_label(members[0].result),
                of=label if is_control else "",
            )
        )  # fmt: skip
    results = [entry.result for entry in entries]
    optima = {r.seed: r.optimal_return for r in results if r.optimal_return is not None}
    knows = {r.source: r.source_knows for r in results if r.source_knows}
    return Family(
        first.env,
        first.env_options,
        first.split,
        (*methods, *_sources(entries), *_others(entries)),
        float(np.mean([*optima.values()])) if optima else None,
        tuple(f"the source {source} knows {told}" for source, told in knows.items()),
        first.versions,
    )


def _labels(entries: list[Entry]) -> dict[tuple[str, str], str]:
    """What a line is called, by an entry's name and label: with the name if labels are the same."""
    names: dict[str, set[str]] = {}
    for entry in entries:
        names.setdefault(entry.result.label, set()).add(entry.name)
    return {
        (name, label): f"{label} ({name})" if len(all_names) > 1 else label
        for label, all_names in names.items()
        for name in all_names
    }


def _by_seed(label: str, entries: list[Entry]) -> dict[int, Tried]:
    tried: dict[int, Tried] = {}
    for entry in entries:
        result = entry.result
        if entry.seed in tried:
            raise UserError(f"{label} is there twice with seed={entry.seed}; name one of the two")
        tried[entry.seed] = Tried(
            result.returns, _names(result), result.regret, entry.train_seconds,
            result.steps_per_second,
        )  # fmt: skip
    return dict(sorted(tried.items()))


def _sources(entries: list[Entry]) -> list[Line]:
    """Every source without its noise, by all episodes it plays and by its own; and as it acted."""
    lines = []
    by_label: dict[str, list[Entry]] = {}
    for entry in entries:
        if "source" in entry.result.baselines:
            by_label.setdefault(_source_label(entry.result), []).append(entry)
    for label, members in by_label.items():
        first = members[0].result
        played = first.baselines["source"].episodes_per_episode
        clean = "source_clean" if "source_clean" in first.baselines else "source"
        tried = _baselines(members, clean)
        lines.append(Line(label, "source", tried, played))
        if played > 1:
            own = f"{label}, by its own episodes"
            lines.append(Line(own, "source_own_episodes", tried, of=label))
        if clean != "source":
            noisy = f"{label}, with {first.source_action_noise:.0%} random actions"
            acted = _baselines(members, "source")
            lines.append(Line(noisy, "source_as_it_acted", acted, played, of=label))
    return lines


def _others(entries: list[Entry]) -> list[Line]:
    """Whoever else was tried on the tasks, from scratch, chance last."""
    names = dict.fromkeys(name for entry in entries for name in entry.result.baselines)
    lines: list[Line] = []
    for name in sorted(
        names.keys() - {"source", "source_clean"}, key=lambda name: name == "random"
    ):
        members = [entry for entry in entries if name in entry.result.baselines]
        played = members[0].result.baselines[name].episodes_per_episode
        kind: Kind = "random" if name == "random" else "baseline"
        lines.append(Line(name, kind, _baselines(members, name), played))
    return lines


def _baselines(entries: list[Entry], name: str) -> dict[int, Tried]:
    """A baseline by seed, from the first rollout of each: of the same seed they are the same."""
    found: dict[int, Tried] = {}
    for entry in entries:
        other: Baseline = entry.result.baselines[name]
        tried = Tried(other.returns, _names(entry.result), other.regret)
        found.setdefault(entry.seed, tried)
    return dict(sorted(found.items()))


def _source_label(result: Result) -> str:
    """The source with those of its options that were given."""
    if "source" not in result.baselines:
        return ""
    options = ", ".join(f"{name}={value}" for name, value in result.source_options.items())
    return f"source {result.source}" + (f" ({options})" if options else "")


def _names(result: Result) -> Tasks:
    return tuple(tuple(task) for task in result.tasks.tolist())


def _key(*values: Any) -> str:
    return json.dumps(as_json(values), sort_keys=True)
