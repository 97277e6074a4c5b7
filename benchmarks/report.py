"""From rows to tables and JSON files."""

import importlib.metadata
import json
import platform
from collections.abc import Iterable
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastad.base.files import write_json
from fastad.base.provenance import describe_machine

PEERS = ("transformers", "stable-baselines3", "h5py", "jax", "triton", "flash-attn")
LESS_IS_BETTER = ("MB",)
NO_KERNELS = "measured on a CPU: the Triton kernels were not timed"

Row = dict[str, Any]


def with_ratios(rows: Iterable[Row]) -> list[Row]:
    """Add to every row of a case how many times better its first side that was measured is."""
    done: list[Row] = []
    for _, case in groupby(rows, key=lambda row: (row["question"], row["case"])):
        sides = list(case)
        ours = first_measured(sides)
        for row in sides:
            if "median" in row and ours is not None and row is not ours:
                ratio = ours["median"] / row["median"]
                row = row | {"ratio": 1 / ratio if row["unit"] in LESS_IS_BETTER else ratio}
            done.append(row)
    return done


def first_measured(sides: list[Row]) -> Row | None:
    """Ours, unless a way of ours was left out, such as compiling without a compiler."""
    first = next((row for row in sides if "skipped" not in row), None)
    return first if first is not None and "median" in first else None


def print_tables(
    rows: Iterable[Row], made_by: dict[str, Any], console: Console | None = None
) -> None:
    """What measured, then one table per question."""
    # Output that goes to a file or a pipe has no width of its own.
    console = console or Console(width=None if Console().is_terminal else 120)
    console.print(f"\n[bold]{escape(describe(made_by))}[/bold]", highlight=False)
    if made_by["quick"]:
        console.print("tiny sizes: this shows that the suite works, its times mean nothing")
    for question, group in groupby(rows, key=lambda row: row["question"]):
        members = list(group)
        console.print()
        console.print(_table(question, members))
        for line in skipped(members):
            console.print(f"  {escape(line)}", style="dim", highlight=False)
        if question == "attention" and made_by["gpu"] is None:
            console.print(f"  {NO_KERNELS}", style="yellow")


def skipped(rows: Iterable[Row]) -> list[str]:
    """What was left out and why: one line per side and reason, however many cases."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "skipped" in row:
            cases.setdefault((row["side"], row["skipped"]), []).append(row["case"])
    return [
        f"{side} skipped{f' in {len(names)} cases' if len(names) > 1 else ''}: {reason}"
        for (side, reason), names in cases.items()
    ]


def _table(question: str, rows: list[Row]) -> Table:
    table = Table(
        title=question, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        pad_edge=False,
    )  # fmt: skip
    table.add_column("case")
    table.add_column("side")
    for heading in ("median", "20 to 80 %", f"{rows[0]['side'].partition(',')[0]} is"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("remark")
    for case, sides in groupby(rows, key=lambda row: row["case"]):
        shown = [row for row in sides if "skipped" not in row]
        for index, row in enumerate(shown):
            style = "bold red" if "failed" in row else ""
            table.add_row("" if index else escape(case), *_cells(row), style=style)
        if shown:
            table.add_section()
    return table


def _cells(row: Row) -> tuple[str, ...]:
    side = escape(str(row["side"]))
    if "failed" in row:
        return side, "", "", "", escape(f"FAILED: {row['failed']}")
    if "median" not in row:
        return side, "", "", "", ""
    remarks = [f"equal to {row['difference']:.0e}"] if "difference" in row else []
    remarks += [str(row["remark"])] if "remark" in row else []
    spread = f"{short(row['p20'])} to {short(row['p80'])}" if row["rounds"] > 1 else ""
    figure = f"{number(row['median'])} {escape(row['unit'])}"
    return side, figure, spread, comparison(row), escape("; ".join(remarks))


def comparison(row: Row) -> str:
    """How many times faster or smaller ours is than this side, or slower or larger."""
    if "ratio" not in row:
        return ""
    better, worse = ("smaller", "larger") if row["unit"] in LESS_IS_BETTER else ("faster", "slower")
    return times(row["ratio"], better) if row["ratio"] >= 1 else times(1 / row["ratio"], worse)


def times(ratio: float, word: str) -> str:
    """A ratio in words."""
    return f"{ratio:,.0f}x {word}" if ratio >= 10 else f"{ratio:.2f}x {word}"


def number(value: float) -> str:
    """Three digits, or all before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short(value: float) -> str:
    """Three digits and a letter for thousands or millions."""
    for least, factor, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{float(f'{value / factor:.3g}'):g}{letter}"
    return number(value)


def made_by(*, quick: bool) -> dict[str, Any]:
    """Machine, versions and commit, to be kept beside the rows."""
    more = {"cpu": _cpu_model(), "date": date.today().isoformat(), "peers": _versions()}
    return {**describe_machine(), **more, "quick": quick}


def describe(made_by: dict[str, Any]) -> str:
    """What measured, in one line."""
    peers = (f"{name} {version}" for name, version in made_by["peers"].items() if version)
    threads = f"{made_by['threads']} thread{'s' if made_by['threads'] != 1 else ''}"
    device = made_by["gpu"] or f"{made_by['cpu']}, {made_by['cpus']} cores"
    versions = f"fastad {made_by['commit'] or made_by['fastad']}, torch {made_by['torch']}"
    return ", ".join([device, threads, versions, *peers])


def write(rows: Iterable[Row], folder: Path, made_by: dict[str, Any]) -> list[Path]:
    """Write one JSON per question, with what made it; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for question, group in groupby(rows, key=lambda row: row["question"]):
        files.append(folder / f"{question}.json")
        write_json(files[-1], {"question": question, "made_by": made_by, "rows": list(group)})
    return files


def write_rows(rows: Iterable[Row], file: Path, made_by: dict[str, Any]) -> Path:
    """Add rows to one file for all questions, with what made them; returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    write_json(file, {"made_by": made_by, "rows": [*earlier, *rows]})
    return file


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


def _cpu_model() -> str:
    """As the kernel calls it, where it does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
