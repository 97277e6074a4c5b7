"""Rollouts sorted into environments, and in each into lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastad.base.errors import UserError
from fastad.base.files import as_json
from fastad.evaluate.comparison import Entry, Family, Kind, Line, Setting, Tried
from fastad.evaluate.metrics import Tasks
from fastad.evaluate.result import Baseline, Result

_SourceKey = tuple[str, float, int]


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
        found.setdefault(family_key(result), []).append(entry)
    return [_family(members) for members in found.values()]


def family_key(of: Result | Family) -> str:
    """What results of one environment, one set of options and one split have in common."""
    return _key(of.env, of.env_options, of.split)


def _family(entries: list[Entry]) -> Family:
    first = entries[0].result
    lines: dict[tuple[bool, str, Setting | None, str], list[Entry]] = {}
    labels, sources = _labels(entries), _source_labels(entries)
    for entry in entries:
        label, hidden = labels[entry.name, entry.result.label], entry.result.control
        lines.setdefault((hidden != "none", label, entry.setting, hidden), []).append(entry)
    methods = []
    for key, members in sorted(lines.items(), key=lambda item: item[0][0]):
        is_control, label, setting, control = key
        its = members[0].result
        told = f", control {control}" if is_control else ""
        name = _with(label, setting) + told
        methods.append(
            Line(
                name, "control" if is_control else "method", _by_seed(name, members),
                method=its.method, source=sources.get(_source_key(its), ""),
                of=_with(label, setting) if is_control else "", setting=setting,
                series=label + told,
            )
        )  # fmt: skip
    results = [entry.result for entry in entries]
    optima = {r.seed: r.optimal_return for r in results if r.optimal_return is not None}
    knows = {r.source: r.source_knows for r in results if r.source_knows}
    return Family(
        first.env,
        first.env_options,
        first.split,
        (*methods, *_sources(entries, sources), *_others(entries)),
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


def _sources(entries: list[Entry], labels: dict[_SourceKey, str]) -> list[Line]:
    """Every source without its noise, by all episodes it plays and by its own; and as it acted."""
    lines = []
    for key, label in labels.items():
        members = [entry for entry in entries if _source_key(entry.result) == key]
        first = members[0].result
        settings = {entry.setting for entry in members}
        of_one = settings.pop() if len(settings) == 1 else None
        played = first.baselines["source"].episodes_per_episode
        clean = "source_clean" if "source_clean" in first.baselines else "source"
        tried = _baselines(members, clean)
        lines.append(Line(label, "source", tried, played, setting=of_one, series=key[0]))
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


def _source_labels(entries: list[Entry]) -> dict[_SourceKey, str]:
    """What each source is called: with a line's value or name where others are called alike."""
    firsts: dict[_SourceKey, Entry] = {}
    for entry in entries:
        if "source" in entry.result.baselines:
            firsts.setdefault(_source_key(entry.result), entry)
    alike = Counter(name for name, *_ in firsts)
    labels = {}
    for key, entry in firsts.items():
        told = f"{key[0]} ({entry.name})" if entry.setting is None else _with(key[0], entry.setting)
        labels[key] = told if alike[key[0]] > 1 else key[0]
    return labels


def _source_key(result: Result) -> _SourceKey:
    """What tells sources apart: the options that were given, random actions, and their length."""
    options = ", ".join(f"{name}={value}" for name, value in result.source_options.items())
    name = f"source {result.source}" + (f" ({options})" if options else "")
    tried = result.baselines.get("source")
    return name, result.source_action_noise, 0 if tried is None else tried.returns.shape[1]


def _with(name: str, setting: Setting | None) -> str:
    return name if setting is None else f"{name}, {setting}"


def _optima(result: Result) -> np.ndarray | None:
    return None if result.task_optima is None else np.asarray(result.task_optima)


def _names(result: Result) -> Tasks:
    return tuple(tuple(task) for task in result.tasks.tolist())


def _key(*values: Any) -> str:
    return json.dumps(as_json(values), sort_keys=True)
