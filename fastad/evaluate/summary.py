"""A rollout's figures under plain names, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.base.provenance import describe_machine
from fastad.evaluate.metrics import Estimate, estimate
from fastad.evaluate.plots import plot_returns
from fastad.evaluate.task_set import TaskSet, Trial

if TYPE_CHECKING:
    from rich.table import Table


def figures_of(trial: Trial, tasks: TaskSet, *, kv_cache: bool) -> dict[str, Any]:
    """Everything that the table and the picture show, ready for JSON.

    `source_returns` are the source's as it acted, with the dataset's action noise;
    `source_returns_clean` are without, so that nothing is compared with noise. Differences are
    between means of the same tasks. An interval is None where there is one task.
    """
    info = tasks.info
    noisy, random = tasks.baseline(), tasks.baseline("random")
    clean = tasks.baseline(noise=False) if info.action_noise > 0 else noisy
    optimal = tasks.optimal_return()
    returns, interval = _listed(estimate(trial.task_returns))
    speed = "steps_per_second_cached" if kv_cache else "steps_per_second_uncached"
    figures = {
        "env": info.env,
        "env_options": info.env_kwargs,
        "source": info.source,
        "source_options": info.source_kwargs,
        "source_knows": tasks.source_knows,
        "source_action_noise": info.action_noise,
        "noise_labels": info.noise_labels,
        "returns": returns,
        "interval": interval,
        "random_return": random.mean.mean().item() if random else None,
        "optimal_return": optimal,
        "share_of_optimum": returns[-1] / optimal if optimal > 0 else None,
        speed: trial.result.steps_per_second,
        "num_tasks": len(tasks.tasks),
        "rollouts_per_task": tasks.repeats,
        "split": tasks.split,
        "seed": tasks.seed,
        "versions": describe_machine(),
    }
    for suffix, source in (("", noisy), ("_clean", clean)):
        figures |= _beside_source(trial, source, suffix)
    if trial.task_regret is not None:
        others = {"source_regret": noisy, "source_regret_clean": clean, "random_regret": random}
        figures |= _regrets(trial, others)
    return figures | {"tasks": tasks.tasks.tolist(), "task_returns": trial.task_returns.tolist()}


def _listed(value: Estimate) -> tuple[Any, Any]:
    """Mean and interval as JSON has them."""
    return value.mean.tolist(), None if value.interval is None else value.interval.tolist()


def _beside_source(trial: Trial, source: Trial | None, suffix: str) -> dict[str, Any]:
    """The source's curve, and the rollout's minus it, task by task."""
    if source is None:
        return {f"source_returns{suffix}": [], f"minus_source{suffix}": None}
    ours, theirs = trial.task_returns, source.task_returns
    shared = min(ours.shape[1], theirs.shape[1])
    returns, interval = _listed(estimate(theirs))
    mean, spread = _listed(estimate(ours[:, :shared] - theirs[:, :shared]))
    return {
        f"source_returns{suffix}": returns,
        f"source_interval{suffix}": interval,
        f"minus_source{suffix}": {"mean": mean, "interval": spread},
    }


def _regrets(trial: Trial, others: dict[str, Trial | None]) -> dict[str, Any]:
    """Regret over all pulls with its interval, and minus that of others, task by task."""
    ours = trial.task_regret
    assert ours is not None
    figures: dict[str, Any] = {}
    figures["regret"], figures["regret_interval"] = _listed(estimate(ours))
    for name, other in others.items():
        if other is None or other.task_regret is None:
            continue
        theirs = other.task_regret
        figures[name], figures[f"{name}_interval"] = _listed(estimate(theirs))
        # Over as many pulls alone are two regrets comparable.
        if other.result.returns.shape == trial.result.returns.shape:
            mean, spread = _listed(estimate(ours - theirs))
            figures[f"minus_{name}"] = {"mean": mean, "interval": spread}
    return figures


def print_table(figures: dict[str, Any], tasks: TaskSet) -> None:
    """Print the returns of some episodes with intervals, beside the source, chance and optimum."""
    from rich.console import Console

    returns, source = figures["returns"], figures["source_returns"]
    optimal = figures["optimal_return"]
    console = Console()
    console.print(_returns_table(figures, tasks))
    if figures["minus_source"]:
        console.print(_differences_table(figures))
    if figures["num_tasks"] == 1:
        print("one task: it has no interval")
    # The source runs longer than the context when only every k-th of its episodes is shown.
    if len(source) > len(returns):
        print(f"source's last episode ({len(source)}): {source[-1]:.2f}")
    print(f"random {_number(figures['random_return'])}, optimal {optimal:.2f}")
    if figures["source_knows"]:
        print(f"the source {figures['source']} knows {figures['source_knows']}")
    if figures["source_action_noise"]:
        print(f"the source acts with {figures['source_action_noise']:.0%} random actions")
    if "regret" in figures:
        print(f"regret over {len(returns)} pulls: {_regret_line(figures)}")
    for name, label in (("cached", "with the KV cache"), ("uncached", "without it")):
        if f"steps_per_second_{name}" in figures:
            print(f"{figures[f'steps_per_second_{name}']:,.0f} steps/s {label}")


def _source_columns(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Headings of the source's columns, and the suffix of their figures."""
    if not figures["source_action_noise"]:
        return [(figures["source"], "")]
    noise = f"{figures['source_action_noise']:.0%}"
    return [
        (f"{figures['source']},\n{noise} random", ""),
        (f"{figures['source']},\nno noise", "_clean"),
    ]


def _returns_table(figures: dict[str, Any], tasks: TaskSet) -> Table:
    returns, interval, optimal = (figures[k] for k in ("returns", "interval", "optimal_return"))
    columns = _source_columns(figures)
    headings = ["episode", "return", "95 % interval", "of optimum"]
    table = _table(describe(figures, tasks), [*headings, *(name for name, _ in columns)])
    for episode in shown_episodes(len(returns)):
        i = episode - 1
        sources = [figures[f"source_returns{suffix}"] for _, suffix in columns]
        table.add_row(
            str(episode),
            f"{returns[i]:.2f}",
            _range(interval, i),
            f"{100 * returns[i] / optimal:.1f} %" if optimal > 0 else "-",
            *(f"{source[i]:.2f}" if i < len(source) else "-" for source in sources),
        )
    return table


def _differences_table(figures: dict[str, Any]) -> Table:
    columns = _source_columns(figures)
    title = "return minus the source's, task by task, with 95 % intervals"
    table = _table(title, ["episode", *(f"minus {name}" for name, _ in columns)])
    differences = [figures[f"minus_source{suffix}"] for _, suffix in columns]
    for episode in shown_episodes(len(differences[0]["mean"])):
        i = episode - 1
        table.add_row(
            str(episode),
            *(f"{d['mean'][i]:+.2f} ({_range(d['interval'], i)})" for d in differences),
        )
    return table


def _table(title: str, headings: list[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _range(interval: Any, index: int) -> str:
    """An interval of one figure, from (2, ...)."""
    return "-" if interval is None else f"{interval[0][index]:.2f} to {interval[1][index]:.2f}"


def _regret_line(figures: dict[str, Any]) -> str:
    """Regret with its interval, beside the source's and that of chance."""
    labels = {"source_regret": "source", "random_regret": "random"}
    if figures["source_action_noise"]:
        labels["source_regret_clean"] = "source without its noise"
    parts = [_with_interval(figures, "regret")]
    parts += [f"{label} {_with_interval(figures, name)}" for name, label in labels.items()]
    difference = figures.get("minus_source_regret")
    if difference and difference["interval"]:
        low, high = difference["interval"]
        parts.append(f"minus the source's {difference['mean']:+.2f} ({low:.2f} to {high:.2f})")
    return ", ".join(parts)


def _with_interval(figures: dict[str, Any], name: str) -> str:
    interval = figures.get(f"{name}_interval")
    shown = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return _number(figures.get(name)) + shown


def save_picture(path: Path, figures: dict[str, Any], tasks: TaskSet) -> None:
    """Draw return per episode; see `plot_returns`."""
    levels = {"optimal": figures["optimal_return"]}
    if figures["random_return"] is not None:
        levels["random"] = figures["random_return"]
    interval = figures["interval"]
    plot_returns(
        path,
        returns=np.asarray(figures["returns"]),
        interval=None if interval is None else np.asarray(interval),
        sources=_source_curves(figures),
        levels=levels,
        title=f"In-context reinforcement learning on {figures['env']}",
        subtitle=describe(figures, tasks),
    )


def describe(figures: dict[str, Any], tasks: TaskSet) -> str:
    """What was tried, in one line."""
    seen = {"train": "trained on", "validation": "for validation, never trained on"}
    control = figures.get("control", "none")
    suffix = "" if control == "none" else f", control: {control}"
    suffix += ", greedy actions" if figures.get("greedy") else ""
    return (
        f"{len(tasks.tasks)} tasks {seen.get(tasks.split, 'never trained on')}, "
        f"{tasks.repeats} rollouts each{suffix}"
    )


def shown_episodes(count: int) -> list[int]:
    """Episodes 1, 2, 5, 10 and so on up to the last, counted from 1."""
    marks = [factor * 10**power for power in range(7) for factor in (1, 2, 5)]
    return [mark for mark in marks if mark < count] + [count]


def _source_curves(figures: dict[str, Any]) -> dict[str, list[float]]:
    """The source's curves by label, with what sets it apart from a learner that knows nothing."""
    name = f"source: {figures['source']}"
    if figures["source_knows"]:
        name += f" (knows {figures['source_knows']})"
    if not figures["source_action_noise"]:
        return {name: figures["source_returns"]}
    return {
        f"{name}, {figures['source_action_noise']:.0%} random actions": figures["source_returns"],
        "the same source without random actions": figures["source_returns_clean"],
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
