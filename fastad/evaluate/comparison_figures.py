"""The figures of a comparison: curves, what sums them up, and differences task by task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastad.evaluate.comparison import Family, Line, final_episodes
from fastad.evaluate.comparison_pairs import beside_others
from fastad.evaluate.metrics import Estimate, estimate_over_seeds, task_means

ENOUGH = 0.8  # of the way from chance to the optimum
PerSeed = Mapping[int, np.ndarray]  # (P, ...) by training seed


def figures_of_family(family: Family) -> dict[str, Any]:
    """Every figure of one environment, as plain JSON values by name.

    Returns are as the environment gives them; scores are 0 at what chance returns and 1 at the
    optimum, both means over all tasks. `final` is the mean of the last tenth of the episodes, at
    least three; `area` the mean of all. A source's are by the environment episodes of its learner.
    """
    reference = family.reference
    return {
        "env": family.env,
        "env_options": dict(family.env_options),
        "split": family.split,
        "seeds": family.seeds,
        "num_episodes": family.num_episodes,
        "varied": family.varied,
        "random_return": family.random_return,
        "optimal_return": family.optimal_return,
        "reference": None if reference is None else reference.label,
        "source_knows": list(family.knows),
        "lines": [line_figures(line, family) for line in family.lines],
    }


def line_figures(line: Line, family: Family) -> dict[str, Any]:
    """Every figure of one line; see `figures_of_family`."""
    scale, end = family.scale, min(line.num_episodes, family.num_episodes)
    curves = {seed: line.curve(seed, end) for seed in line.tried}
    mean, interval = _over(line, curves)
    sums = summaries(line, family)
    tried = next(iter(line.tried.values()))
    figures: dict[str, Any] = {
        "label": line.label,
        "kind": line.kind,
        "method": line.method,
        "source": line.source,
        "of": line.of,
        "series": line.series,
        **({} if line.setting is None else {"value": line.setting.value}),
        "seeds": [*line.tried],
        "num_tasks": len(tried.tasks),
        "rollouts_per_task": len(tried.returns) // len(tried.tasks),
        "episodes_per_episode": line.episodes_per_episode,
        "num_episodes": line.num_episodes,
        "final_episodes": final_episodes(tried.returns.shape[1]),
        "returns": mean.tolist(),
        "interval": None if interval is None else interval.tolist(),
        "returns_by_seed": {seed: curve.mean(axis=0).tolist() for seed, curve in curves.items()},
        **{name: _summary(line, values) for name, values in sums.items()},
        "episodes_to_80_percent": _episodes_to(mean, line, scale),
        "train_seconds": {seed: tried.train_seconds for seed, tried in line.tried.items()},
    }
    if scale is not None:
        score = _over(line, _scores(line, curves, scale)).plain()
        figures |= {"score": score["mean"], "score_interval": score["interval"]}
        figures |= {
            f"{name}_score": _summary(line, _scores(line, values, scale))
            for name, values in sums.items()
            if name not in ("found", "regret")
        }
    if line.kind in ("method", "control") and is_sparse(family):
        figures |= _found_by_episode(line)
    return figures | beside_others(line, family)


def points(
    line: Line, family: Family, width: int, *, scored: bool = True
) -> tuple[list[int], Estimate]:
    """A line as it is drawn: means of some environment episodes each, scores where there are any.

    Args:
        line: To draw.
        family: That it is of.
        width: Episodes of a point, at least; as many more as all its actors end theirs.
        scored: Whether scores are wanted, or returns.

    Returns:
        The last episode of each point, and the means with their intervals.
    """
    end = min(line.num_episodes, family.num_episodes)
    width = min(end, -(-width // line.episodes_per_episode) * line.episodes_per_episode)
    ends = [*range(width, end + 1, width)]
    means = {
        seed: line.curve(seed, ends[-1]).reshape(-1, len(ends), width).mean(axis=2)
        for seed in line.tried
    }
    scale = family.scale if scored else None
    return ends, _over(line, means if scale is None else _scores(line, means, scale))


def summaries(line: Line, family: Family) -> dict[str, PerSeed]:
    """What sums a line up, task by task and seed by seed; NaN where a task tells nothing.

    `first`, `final` and `area` are of all lines; `regret` where the tasks are bandits and a line
    has as many pulls as the longest rollouts; `found`, the share of rollouts that were rewarded in
    any episode, and `return_once_found`, the mean return after the first such episode, where
    rewards are sparse; both within as many environment episodes as the longest rollouts have.
    """
    end = min(line.num_episodes, family.num_episodes)
    sums: dict[str, PerSeed] = {
        "first": {seed: tried.task_returns[:, 0] for seed, tried in line.tried.items()},
        "final": {seed: line.final(seed) for seed in line.tried},
        "area": {seed: line.area(seed, end) for seed in line.tried},
    }
    regrets = line.regrets()
    if regrets is not None and line.lengths == {family.num_episodes}:
        sums["regret"] = regrets
    if is_sparse(family):
        own = max(1, end // line.episodes_per_episode)  # episodes of each rollout
        seen = {seed: (t.returns[:, :own], len(t.tasks)) for seed, t in line.tried.items()}
        sums["found"] = {
            seed: task_means(np.any(returns > 0, axis=1), num_tasks)
            for seed, (returns, num_tasks) in seen.items()
        }
        sums["return_once_found"] = {seed: _once_found(*both) for seed, both in seen.items()}
    return sums


def is_sparse(family: Family) -> bool:
    """Whether a reward has to be found first: none is negative, and the tasks are no bandits."""
    tried = [tried for line in family.lines for tried in line.tried.values()]
    return all(t.regret is None and float(t.returns.min()) >= 0.0 for t in tried)


def _once_found(returns: np.ndarray, num_tasks: int) -> np.ndarray:
    """Each task's mean return in the episodes after a rollout's first rewarded one, (P,)."""
    before = _found_before(returns)
    count = task_means(before, num_tasks).sum(axis=1)
    total = task_means(np.where(before, returns, 0.0), num_tasks).sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _found_before(returns: np.ndarray) -> np.ndarray:
    """Whether each rollout was rewarded in any episode before each, (N, E)."""
    found = np.logical_or.accumulate(returns > 0, axis=1)
    return np.concatenate([np.zeros((len(found), 1), dtype=bool), found[:, :-1]], axis=1)


def _found_by_episode(line: Line) -> dict[str, Any]:
    """By episode, the share of rollouts rewarded before it, and the mean return of those."""
    shortest = min(tried.returns.shape[1] for tried in line.tried.values())
    returns = np.concatenate([tried.returns[:, :shortest] for tried in line.tried.values()])
    before = _found_before(returns)
    count = before.sum(axis=0)
    total = np.where(before, returns, 0.0).sum(axis=0, dtype=np.float64)
    means = [t / c if c else None for t, c in zip(total.tolist(), count.tolist(), strict=True)]
    return {
        "found_before": before.mean(axis=0).tolist(),
        "return_if_found_before": means,
    }


def _episodes_to(mean: np.ndarray, line: Line, scale: tuple[float, float] | None) -> int | None:
    """Environment episodes until the mean return is `ENOUGH` of the way to the optimum."""
    if scale is None:
        return None
    zero, one = scale
    reached = np.flatnonzero(mean >= zero + ENOUGH * (one - zero))
    if len(reached) == 0:
        return None
    # All that the actors play at once is spent.
    return int(reached[0] // line.episodes_per_episode + 1) * line.episodes_per_episode


def _over(line: Line, values: PerSeed) -> Estimate:
    """The mean over tasks and seeds, (P, ...) each; tasks that tell nothing are left out."""
    kept, names = [], []
    for seed, rows in values.items():
        told = np.isfinite(rows.reshape(len(rows), -1).sum(axis=1))
        kept.append(rows[told])
        tasks = line.tried[seed].tasks
        names.append(tuple(task for task, is_told in zip(tasks, told, strict=True) if is_told))
    some = [index for index, rows in enumerate(kept) if len(rows)]
    if not some:
        return Estimate(np.array(np.nan), None)
    shape = kept[some[0]].shape
    neighbours = shape[1] // 5 if len(shape) > 1 else 1
    return estimate_over_seeds(
        [kept[i] for i in some], [names[i] for i in some], neighbours=max(1, neighbours)
    )


def _summary(line: Line, values: PerSeed) -> dict[str, Any]:
    by_seed = {s: None if np.isnan(v).all() else float(np.nanmean(v)) for s, v in values.items()}
    return _over(line, values).plain() | {"by_seed": by_seed}


def _scores(line: Line, values: PerSeed, scale: tuple[float, float]) -> PerSeed:
    """Scores task by task, whose mean is the score of the mean return.

    Tasks differ in what their optimum returns. A score is a ratio of means over tasks, and so its
    error is that of return - score * optimum, a task's own: an optimal policy scores 1 with no
    error, whichever the tasks.
    """
    zero, one = scale
    share = (_over(line, values).mean - zero) / (one - zero)
    optima = {
        seed: line.tried[seed].task_optima + 0.0 * rows.reshape(len(rows), -1).sum(axis=1)
        for seed, rows in values.items()
    }
    middle = _over(line, optima).mean  # of the tasks that tell anything
    scores = {}
    for seed, rows in values.items():
        apart = (optima[seed] - middle).reshape(-1, *(1 for _ in rows.shape[1:]))
        scores[seed] = (rows - zero - share * apart) / (one - zero)
    return scores
