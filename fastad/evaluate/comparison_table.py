"""A comparison as tables: on the terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from fastad.evaluate.comparison import Family

if TYPE_CHECKING:
    from rich.table import Table

SUMS = ("first", "final", "area", "first_score", "final_score", "area_score", "found",
        "return_once_found", "return_once_found_score", "regret")  # fmt: skip
PAIRS = ("minus_ad", "minus_source")
LOG_WIDTH = 120
RATIOS = {
    "final": "final over\nits source's",
    "area": "area over\nits source's",
    "area_by_own_episodes": "the same, by\nits own episodes",
    "regret": "regret over\nits source's",
}


def print_family(figures: dict[str, Any]) -> None:
    """Print the tables of one environment, from `figures_of_family`."""
    from rich.console import Console

    console, lines = Console(), figures["lines"]
    if not console.is_terminal:
        console = Console(width=max(console.width, LOG_WIDTH))  # a log has no edge
    tables = (_returns_table(figures), _found_table(figures), _differences_table(figures))
    for table in tables:
        if table is not None:
            console.print(table)
    chance, optimum = (_number(figures[f"{name}_return"]) for name in ("random", "optimal"))
    print(f"chance returns {chance}, the optimum {optimum} per episode")
    ends = {line["final_episodes"] for line in lines if line["kind"] == "method"}
    print(
        f"final: mean of the last {' or '.join(map(str, sorted(ends)))} episodes (a tenth, at "
        "least 3); area: mean of all; a source's area is over as many environment episodes of its "
        "learner, all its actors counted, as is what it found; its final return is that of the end "
        "of its history"
    )
    for line in lines:
        if line["kind"] == "source" and line["episodes_per_episode"] > 1:
            print(
                f"{line['label']} plays {line['episodes_per_episode']} episodes for each of its own"
            )
    for told in figures["source_knows"]:
        print(told)
    if len(figures["seeds"]) == 1:
        print("one training seed: intervals are over tasks alone; --seeds 3 or more tell the rest")


def table_rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables of one environment as flat rows, a line each; intervals as _low and _high."""
    rows = []
    for line in figures["lines"]:
        varied = {figures["varied"]: line.get("value")} if figures["varied"] else {}
        row = {"env": figures["env"], "label": line["label"], **varied, "kind": line["kind"],
               "method": line["method"], "seeds": len(line["seeds"]),
               "num_tasks": line["num_tasks"], "rollouts_per_task": line["rollouts_per_task"],
               "num_episodes": line["num_episodes"],
               "episodes_per_episode": line["episodes_per_episode"]}  # fmt: skip
        for name in SUMS:
            row |= _flat(name, line.get(name))
        row["episodes_to_80_percent"] = line["episodes_to_80_percent"]
        row |= {f"{name}_over_source": _over_source(line, name) for name in RATIOS}
        for name in ("final", "area", "regret"):
            for pair in PAIRS:
                row |= _flat(f"{name}_{pair}", (line.get(pair) or {}).get(name))
        rows.append(row)
    return rows


def returns_rows(family: Family) -> list[dict[str, Any]]:
    """The mean return of every line, seed and task, a column for each of its own episodes."""
    return [
        {"env": family.env, "label": line.label, "kind": line.kind, "seed": seed,
         "task": " ".join(map(str, task)) if isinstance(task, tuple) else task}
        | {f"episode_{e}": float(f"{value:.6g}") for e, value in enumerate(returns, start=1)}
        for line in family.lines
        for seed, tried in line.tried.items()
        for task, returns in zip(tried.tasks, tried.task_returns.tolist(), strict=True)
    ]  # fmt: skip


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV, with every column that any of them has; what is not known is empty."""
    rows = list(rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _returns_table(figures: dict[str, Any]) -> Table:
    lines = figures["lines"]
    suffix = _suffix(lines)
    unit = "scores, chance 0 and optimum 1" if suffix else "returns per episode"
    columns: dict[str, list[str]] = {"": [line["label"] for line in lines]}
    columns["first"] = [_mean(line[f"first{suffix}"]) for line in lines]
    for name in ("final", "area"):
        columns[name] = [_short(line[f"{name}{suffix}"]) for line in lines]
    columns["episodes\nto 80 %"] = [_whole(line["episodes_to_80_percent"]) for line in lines]
    if any("regret" in line for line in lines):
        columns["regret"] = [_short(line.get("regret"), 1) for line in lines]
    return _table(f"{figures['env']}: {unit}, with 95 % intervals", columns)


def _found_table(figures: dict[str, Any]) -> Table | None:
    """Where rewards have to be found, how many were, and what followed; beside the source."""
    lines = [line for line in figures["lines"] if "found" in line or line.get("over_source")]
    if not lines:
        return None
    columns: dict[str, list[str]] = {"": [line["label"] for line in lines]}
    if any("found" in line for line in lines):
        columns["ever\nfound"] = [_share(line.get("found")) for line in lines]
        name = f"return_once_found{_suffix(lines)}"
        heading = "score\nonce found" if _suffix(lines) else "return\nonce found"
        columns[heading] = [_mean(line.get(name)) for line in lines]
    if any(line.get("over_source") for line in lines):
        for name, heading in RATIOS.items():
            ratios = [_over_source(line, name) for line in lines]
            if any(ratio is not None for ratio in ratios) and (
                name != "area_by_own_episodes"
                or any(line["episodes_per_episode"] > 1 for line in lines)
            ):
                columns[heading] = [_number(ratio) for ratio in ratios]
    found = "the reward found, and " if any("found" in line for line in lines) else ""
    return _table(f"{found}returns over the source's", columns)


def _differences_table(figures: dict[str, Any]) -> Table | None:
    lines = [line for line in figures["lines"] if any(line.get(name) for name in PAIRS)]
    if not lines:
        return None
    columns: dict[str, list[str]] = {"": [line["label"] for line in lines]}
    for pair, whom in zip(PAIRS, (figures["reference"], "source"), strict=True):
        if any(line.get(pair) for line in lines):
            for name in ("final", "area"):
                columns[f"{name} minus\n{whom}"] = [
                    _short((line.get(pair) or {}).get(name), signed=True) for line in lines
                ]
    title = "returns apart, task by task and seed by seed, with 95 % intervals"
    return _table(title, columns)


def _table(title: str, columns: dict[str, list[str]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, heading in enumerate(columns):
        if index:
            table.add_column(heading, justify="right")
        else:
            table.add_column(heading, min_width=20)
    for row in zip_longest(*columns.values(), fillvalue=""):
        table.add_row(*row)
    return table


def _suffix(lines: list[dict[str, Any]]) -> str:
    """Of the figures that are shown: scores where there are any."""
    return "_score" if any("final_score" in line for line in lines) else ""


def _flat(name: str, summary: dict[str, Any] | None) -> dict[str, Any]:
    """A mean and its interval as three columns."""
    low, high = (summary or {}).get("interval") or (None, None)
    return {name: (summary or {}).get("mean"), f"{name}_low": low, f"{name}_high": high}


def _short(summary: dict[str, Any] | None, digits: int = 2, *, signed: bool = False) -> str:
    """A mean with its interval."""
    if not summary or summary["mean"] is None:
        return "-"
    mean = f"{summary['mean']:{'+' if signed else ''}z.{digits}f}"
    if summary["interval"] is None:
        return mean
    low, high = summary["interval"]
    return f"{mean} ({low:z.{digits}f} to {high:z.{digits}f})"


def _over_source(line: dict[str, Any], name: str) -> float | None:
    over = line.get("over_source")
    value: float | None = over[name]["value"] if over and name in over else None
    return value


def _mean(summary: dict[str, Any] | None) -> str:
    return _number(summary["mean"] if summary else None)


def _share(summary: dict[str, Any] | None) -> str:
    return "-" if summary is None else f"{100 * summary['mean']:.0f} %"


def _whole(value: int | None) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.2f}"
