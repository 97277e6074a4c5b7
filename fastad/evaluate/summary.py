"""A rollout's figures under plain names, as a table and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from fastad.evaluate.held_out import TaskSet, Trial
from fastad.evaluate.plots import plot_returns
from fastad.tracking import describe_machine


def figures_of(trial: Trial, tasks: TaskSet, *, kv_cache: bool) -> dict[str, Any]:
    """Everything that the table and the picture show, ready for JSON."""
    info = tasks.info
    mean = trial.mean
    source = tasks.baseline()
    random = tasks.baseline("random")
    optimal = tasks.optimal_return()
    speed = "steps_per_second_cached" if kv_cache else "steps_per_second_uncached"
    figures = {
        "env": info.env,
        "source": info.source,
        "source_knows": info.source_knows,
        "source_action_noise": info.action_noise,
        "returns": mean.tolist(),
        "interval": trial.interval.tolist(),
        "source_returns": source.mean.tolist() if source else [],
        "random_return": random.mean.mean().item() if random else None,
        "optimal_return": optimal,
        "share_of_optimum": mean[-1].item() / optimal if optimal > 0 else None,
        speed: trial.result.steps_per_second,
        "num_tasks": len(tasks.tasks),
        "rollouts_per_task": tasks.repeats,
        "seed": tasks.seed,
        "versions": describe_machine(),
    }
    if trial.regret is not None:
        figures["regret"] = trial.regret.mean().item()
        for name, other in (("source_regret", source), ("random_regret", random)):
            if other is not None and other.regret is not None:
                figures[name] = other.regret.mean().item()
    return figures


def print_table(figures: dict[str, Any], tasks: TaskSet) -> None:
    """Print return, interval and share of the optimum for some episodes, the source beside it."""
    from rich.console import Console
    from rich.table import Table

    returns, source = figures["returns"], figures["source_returns"]
    low, high = figures["interval"]
    optimal = figures["optimal_return"]
    table = Table(title=describe(figures, tasks), title_justify="left", header_style="bold")
    for heading in ("episode", "return", "95 % interval", "of optimum", f"{figures['source']}"):
        table.add_column(heading, justify="right")
    for episode in shown_episodes(len(returns)):
        i = episode - 1
        table.add_row(
            str(episode),
            f"{returns[i]:.2f}",
            f"{low[i]:.2f} to {high[i]:.2f}",
            f"{100 * returns[i] / optimal:.1f} %" if optimal > 0 else "-",
            f"{source[i]:.2f}" if i < len(source) else "-",
        )
    console = Console()
    console.print(table)
    # The source runs longer than the context when only every k-th of its episodes is shown.
    if len(source) > len(returns):
        print(f"source's last episode ({len(source)}): {source[-1]:.2f}")
    print(f"random {_number(figures['random_return'])}, optimal {optimal:.2f}")
    if figures["source_knows"]:
        print(f"the source {figures['source']} knows {figures['source_knows']}")
    if figures["source_action_noise"]:
        print(f"the source acts with {figures['source_action_noise']:.0%} random actions")
    if "regret" in figures:
        print(
            f"regret over {len(returns)} pulls: {figures['regret']:.2f}, "
            f"source {_number(figures.get('source_regret'))}, "
            f"random {_number(figures.get('random_regret'))}"
        )
    for name, label in (("cached", "with the KV cache"), ("uncached", "without it")):
        if f"steps_per_second_{name}" in figures:
            print(f"{figures[f'steps_per_second_{name}']:,.0f} steps/s {label}")


def save_picture(path: Path, figures: dict[str, Any], tasks: TaskSet) -> None:
    """Draw return per episode; see `plot_returns`."""
    levels = {"optimal": figures["optimal_return"]}
    if figures["random_return"] is not None:
        levels["random"] = figures["random_return"]
    plot_returns(
        path,
        returns=np.asarray(figures["returns"]),
        interval=np.asarray(figures["interval"]),
        source_returns=figures["source_returns"],
        levels=levels,
        title=f"In-context reinforcement learning on {figures['env']}",
        subtitle=describe(figures, tasks),
        source_label=_source_label(figures),
    )


def describe(figures: dict[str, Any], tasks: TaskSet) -> str:
    """What was tried, in one line."""
    seen = {"train": "trained on", "validation": "for validation, never trained on"}
    control = figures.get("control", "none")
    suffix = "" if control == "none" else f", control: {control}"
    return (
        f"{len(tasks.tasks)} tasks {seen.get(tasks.split, 'never trained on')}, "
        f"{tasks.repeats} rollouts each{suffix}"
    )


def shown_episodes(count: int) -> list[int]:
    """Episodes 1, 2, 5, 10 and so on up to the last, counted from 1."""
    marks = [factor * 10**power for power in range(7) for factor in (1, 2, 5)]
    return [mark for mark in marks if mark < count] + [count]


def _source_label(figures: dict[str, Any]) -> str:
    """The source, with what sets it apart from a learner that knows nothing."""
    remarks = []
    if figures["source_knows"]:
        remarks.append(f"knows {figures['source_knows']}")
    if figures["source_action_noise"]:
        remarks.append(f"{figures['source_action_noise']:.0%} random actions")
    return f"source: {figures['source']}" + (f" ({'; '.join(remarks)})" if remarks else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
