"""From rows to tables and JSON files."""

import importlib.metadata
import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastad.histories.files import write_json
from fastad.tracking import describe_machine

PEERS = ("transformers", "stable-baselines3", "h5py", "triton", "flash-attn")
LESS_IS_BETTER = ("MB",)

Row = dict[str, Any]


def with_ratios(rows: Iterable[Row]) -> list[Row]:
    """Add to every row of a case how many times better its first side, ours, is."""
    done: list[Row] = []
    for _, case in groupby(rows, key=lambda row: (row["question"], row["case"])):
        sides = list(case)
        ours = sides[0]
        for row in sides:
            if "median" in row and "median" in ours and row is not ours:
                ratio = ours["median"] / row["median"]
                row = row | {"ratio": 1 / ratio if row["unit"] in LESS_IS_BETTER else ratio}
            done.append(row)
    return done


def print_tables(rows: Iterable[Row], console: Console | None = None) -> None:
    """One table per question."""
    console = console or Console(width=None if Console().is_terminal else 140)
    for question, group in groupby(rows, key=lambda row: row["question"]):
        table = Table(title=question, title_justify="left", title_style="bold")
        for heading in ("case", "side"):
            table.add_column(heading)
        for heading in ("median", "20 to 80 %", "first side is"):
            table.add_column(heading, justify="right")
        table.add_column("checked")
        for case, sides in groupby(group, key=lambda row: row["case"]):
            for index, row in enumerate(sides):
                table.add_row("" if index else case, *_cells(row))
            table.add_section()
        console.print(table)


def _cells(row: Row) -> tuple[str, ...]:
    side = str(row["side"])
    if "skipped" in row or "failed" in row:
        reason = f"skipped: {row['skipped']}" if "skipped" in row else f"FAILED: {row['failed']}"
        return side, "", "", "", reason
    ratio = f"{row['ratio']:.2f}x" if "ratio" in row else ""
    difference = f"equal to {row['difference']:.0e}" if "difference" in row else ""
    return (
        side,
        f"{number(row['median'])} {row['unit']}",
        f"{number(row['p20'])} to {number(row['p80'])}",
        ratio,
        difference,
    )


def number(value: float) -> str:
    """Three digits, or all before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(rows: Iterable[Row], folder: Path, *, quick: bool) -> list[Path]:
    """Write one JSON per question, with what made it; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made_by = {**describe_machine(), "peers": _versions(), "quick": quick}
    files = []
    for question, group in groupby(rows, key=lambda row: row["question"]):
        files.append(folder / f"{question}.json")
        write_json(files[-1], {"question": question, "made_by": made_by, "rows": list(group)})
    return files


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What `write` wrote, by question."""
    contents = (json.loads(file.read_text()) for file in sorted(folder.glob("*.json")))
    return {content["question"]: content for content in contents if "question" in content}


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
