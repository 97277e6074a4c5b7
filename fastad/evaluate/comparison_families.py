"""Rollouts sorted into environments, and in each into lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastad.base.errors import UserError
from fastad.base.files import as_json
from fastad.evaluate.comparison import Entry, Family, Kind, Line, Tried
from fastad.evaluate.metrics import Tasks
from fastad.evaluate.result import Baseline, Result


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
            result.returns, _names(result), result.regret, _optima(result), entry.train_seconds,
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
        tried = Tried(other.returns, _names(entry.result), other.regret, _optima(entry.result))
        found.setdefault(entry.seed, tried)
    return dict(sorted(found.items()))


def _source_label(result: Result) -> str:
    """The source with those of its options that were given."""
    if "source" not in result.baselines:
        return ""
    options = ", ".join(f"{name}={value}" for name, value in result.source_options.items())
    return f"source {result.source}" + (f" ({options})" if options else "")


def _optima(result: Result) -> np.ndarray | None:
    return None if result.task_optima is None else np.asarray(result.task_optima)


def _names(result: Result) -> Tasks:
    return tuple(tuple(task) for task in result.tasks.tolist())


def _key(*values: Any) -> str:
    return json.dumps(as_json(values), sort_keys=True)
