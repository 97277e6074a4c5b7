"""The figures of a result: means over tasks, their intervals, and differences from baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.evaluate.metrics import Estimate, estimate, task_means

if TYPE_CHECKING:
    from fastad.evaluate.result import Baseline, Result


def figures_of(result: Result) -> dict[str, Any]:
    """Every figure that is reckoned from what was measured, ready for JSON.

    `source_returns` are the source's as it acted, with the dataset's action noise;
    `source_returns_clean` are without, so that nothing is compared with noise. They are by the
    episodes of its histories, for each of which it plays `source_episodes_per_episode`. Differences
    are between means of the same tasks. An interval is None where there is one task.
    """
    others = dict(result.baselines)
    if "source" in others:
        others.setdefault("source_clean", others["source"])
    random, optimal = others.get("random"), result.optimal_return
    returns, interval = _listed(estimate(result.task_returns))
    figures: dict[str, Any] = {
        "returns": returns,
        "interval": interval,
        "random_return": None if random is None else _means(random.returns, result).mean().item(),
        "share_of_optimum": returns[-1] / optimal if optimal is not None and optimal > 0 else None,
        f"steps_per_second_{'cached' if result.kv_cache else 'uncached'}": result.steps_per_second,
        "num_tasks": result.num_tasks,
        "rollouts_per_task": result.rollouts_per_task,
    }
    for suffix in ("", "_clean"):
        figures |= _beside_source(result, others.get(f"source{suffix}"), suffix)
    if result.regret is not None:
        figures |= _regrets(result, others)
    return figures | {"tasks": result.tasks.tolist(), "task_returns": result.task_returns.tolist()}


def _means(values: np.ndarray, result: Result) -> np.ndarray:
    return task_means(values, result.num_tasks)


def _listed(value: Estimate) -> tuple[Any, Any]:
    """Mean and interval as JSON has them."""
    return value.mean.tolist(), None if value.interval is None else value.interval.tolist()


def _beside_source(result: Result, source: Baseline | None, suffix: str) -> dict[str, Any]:
    """The source's curve, and the rollout's minus it, task by task."""
    if source is None:
        return {f"source_returns{suffix}": [], f"minus_source{suffix}": None}
    ours, theirs = result.task_returns, _means(source.returns, result)
    shared = min(ours.shape[1], theirs.shape[1])
    returns, interval = _listed(estimate(theirs))
    mean, spread = _listed(estimate(ours[:, :shared] - theirs[:, :shared]))
    return {
        f"source_returns{suffix}": returns,
        f"source_interval{suffix}": interval,
        "source_episodes_per_episode": source.episodes_per_episode,
        f"minus_source{suffix}": {"mean": mean, "interval": spread},
    }


def _regrets(result: Result, others: dict[str, Baseline]) -> dict[str, Any]:
    """Regret over all pulls with its interval, and minus that of others, task by task."""
    assert result.regret is not None
    ours = _means(result.regret, result)
    figures: dict[str, Any] = {}
    figures["regret"], figures["regret_interval"] = _listed(estimate(ours))
    names = {"source": "source_regret", "source_clean": "source_regret_clean",
             "ucb1": "ucb1_regret", "random": "random_regret"}  # fmt: skip
    for key, name in names.items():
        other = others.get(key)
        if other is None or other.regret is None:
            continue
        theirs = _means(other.regret, result)
        figures[name], figures[f"{name}_interval"] = _listed(estimate(theirs))
        # Over as many pulls alone are two regrets comparable.
        if other.returns.shape == result.returns.shape:
            mean, spread = _listed(estimate(ours - theirs))
            figures[f"minus_{name}"] = {"mean": mean, "interval": spread}
    return figures
