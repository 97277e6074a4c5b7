"""A method beside another, and beside its source: task by task, seed by seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fastad.evaluate.comparison import Family, Line
from fastad.evaluate.metrics import estimate_over_seeds


def beside_others(line: Line, family: Family) -> dict[str, Any]:
    """A method or control beside plain AD and the source that it learned from, by name."""
    if line.kind not in ("method", "control"):
        return {}
    figures: dict[str, Any] = {}
    reference = family.reference
    if reference is not None and reference is not line:
        figures["minus_ad"] = differences(line, reference)
    source = family.line(line.source) if line.source else None
    if source is not None:
        figures["minus_source"] = differences(line, source)
        figures["over_source"] = ratios(line, source)
    return figures


def differences(line: Line, other: Line) -> dict[str, Any] | None:
    """A line minus another, task by task and seed by seed, where both were tried on the same.

    `area` and `returns` are over as many environment episodes as both have; `final` is each at its
    own end; `regret` is there for bandits, over as many pulls.

    Returns:
        By name, means with intervals; None where nothing is the same.
    """
    seeds = _shared_seeds(line, other)
    if not seeds:
        return None
    end = min(line.num_episodes, other.num_episodes)
    measures: dict[str, Callable[[Line, int], np.ndarray]] = {
        "final": Line.final,
        "area": lambda one, seed: one.area(seed, end),
        "returns": lambda one, seed: one.curve(seed, end),
    }
    tasks = [line.tried[seed].tasks for seed in seeds]
    regrets = _regrets(line, other)
    if regrets is not None:
        measures["regret"] = lambda one, seed: regrets[one is other][seed]
    found: dict[str, Any] = {"seeds": seeds, "num_episodes": end}
    for name, measure in measures.items():
        apart = [measure(line, seed) - measure(other, seed) for seed in seeds]
        found[name] = estimate_over_seeds(apart, tasks).plain()
    return found


def ratios(line: Line, source: Line) -> dict[str, Any] | None:
    """What a line returned over what its source did, as ratios of means.

    `final` is over the source's return at the end of its own history. `area` is over the source's
    own, over as many environment episodes of a learner, all its actors counted; in
    `area_by_own_episodes` the episodes of one actor alone count. `regret` is of bandits.
    """
    seeds = _shared_seeds(line, source)
    if not seeds:
        return None
    alone = replace(source, episodes_per_episode=1)
    ends = [min(line.num_episodes, other.num_episodes) for other in (source, alone)]
    pairs = {
        "final": {s: (line.final(s), source.final(s)) for s in seeds},
        "area": {s: (line.area(s, ends[0]), source.area(s, ends[0])) for s in seeds},
        "area_by_own_episodes": {s: (line.area(s, ends[1]), alone.area(s, ends[1])) for s in seeds},
    }
    regrets = _regrets(line, source)
    if regrets is not None:
        pairs["regret"] = {s: (regrets[0][s], regrets[1][s]) for s in seeds}
    return {"num_episodes": ends[0]} | {name: _ratio(both) for name, both in pairs.items()}


def _regrets(line: Line, other: Line) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]] | None:
    """The regrets of both by seed, where both have any, over as many pulls."""
    ours, theirs = line.regrets(), other.regrets()
    if ours is None or theirs is None or line.lengths != other.lengths or len(line.lengths) > 1:
        return None
    return ours, theirs


def _ratio(pairs: dict[int, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    means = {seed: (ours.mean(), theirs.mean()) for seed, (ours, theirs) in pairs.items()}
    ours, theirs = np.mean([*means.values()], axis=0)
    return {
        "value": _quotient(ours, theirs),
        "by_seed": {seed: _quotient(*pair) for seed, pair in means.items()},
    }


def _quotient(one: float, other: float) -> float | None:
    return float(one / other) if other > 0 else None


def _shared_seeds(line: Line, other: Line) -> list[int]:
    both = line.tried.keys() & other.tried.keys()
    return sorted(s for s in both if line.tried[s].tasks == other.tried[s].tasks)
