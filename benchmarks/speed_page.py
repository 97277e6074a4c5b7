"""The figure and the table of docs/speed.md, from benchmarks/results/*.json.

    python -m benchmarks.speed_page [--results DIR] [--page FILE] [--figure FILE]

Nothing is typed by hand: what the results say is what the page says.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Row
from fastad.base.errors import UserError
from fastad.evaluate.plots import AD_COLOUR, GRID, INK, LEVEL_COLOUR, SOURCE_COLOUR

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
TITLES = {
    "rollout": "Rollout",
    "horizon": "Long rollouts",
    "train": "Training",
    "collect": "Collection",
    "tabular": "Tabular sources",
    "neural": "Neural sources",
    "loader": "Loading",
    "attention": "Attention",
    "long": "Long sequences",
    "memory": "Memory",
    "render": "Rendering",
}


def compared(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One entry per side that ours was measured beside: its ratios, and the case in their middle.

    The middle case is the one whose ratio is the (lower) median, so that its two figures are real.
    Cases that name a group, forward or decode, say, are kept apart. Sides called "fastad, ..." are
    ours as well.
    """
    rows = list(rows)
    ours: dict[str, Row] = {}
    members: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "skipped" in row:
            continue
        first = ours.setdefault(row["case"], row)
        if "ratio" in row and row is not first and not row["side"].startswith("fastad, "):
            members.setdefault((row.get("group", ""), row["side"]), []).append(row)
    entries = []
    for (group, side), of_side in members.items():
        of_side.sort(key=lambda row: row["ratio"])
        middle = of_side[(len(of_side) - 1) // 2]
        entries.append(
            {
                "side": f"{side} ({group})" if group else side,
                "ratios": [row["ratio"] for row in of_side],
                "row": middle,
                "ours": ours[middle["case"]],
            }
        )
    return entries


def questions(results: dict[str, dict[str, Any]]) -> list[str]:
    """Questions that were measured, in the order of the data's way."""
    return [name for name in dict.fromkeys((*TITLES, *sorted(results))) if name in results]


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: one row per side, the case in the middle and the span over all cases."""
    lines = [
        "| | beside | case in the middle | fastad | the other | fastad is | over all cases |",
        "|---|---|---|---|---|---|---|",
    ]
    for question in questions(results):
        title = TITLES.get(question, question)
        for entry in compared(results[question]["rows"]):
            row, first, ratios = entry["row"], entry["ours"], entry["ratios"]
            unit = row["unit"]
            span = f"{factor(ratios[0])} to {factor(ratios[-1])} ({len(ratios)})"
            cells = (
                title, entry["side"], row["case"], _own(first),
                f"{report.short(row['median'])} {unit}", report.comparison(row),
                span if len(ratios) > 1 else "",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
            title = ""
    return "\n".join(lines)


def _own(row: Row) -> str:
    """Our figure, with the way of ours that it was measured in, if there are several."""
    _, _, way = row["side"].partition(", ")
    return f"{report.short(row['median'])} {row['unit']}" + (f" ({way})" if way else "")


def factor(ratio: float) -> str:
    """A ratio as a factor."""
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2f}x"


def section(results: dict[str, dict[str, Any]], figure: str) -> str:
    """What stands between the markers."""
    lines = [f"![How many times faster fastad is than its peers]({figure})", "", table(results), ""]
    lines += [
        "Medians over rounds, the sides of a case right after each other; of memory, one figure "
        'per process. Under "over all cases", above 1x fastad is ahead, below 1x behind. Nothing '
        "is timed before it agrees with its specification.",
        "",
    ]
    for row in results.get("horizon", {"rows": []})["rows"]:
        if "ratio" in row:
            lines.append(
                f"- A cached rollout of {row['case']}: at the end a step takes {row['ratio']:.2f} "
                f"times as long as when the ring had just been filled."
            )
    for key, names in _by_machine(results).items():
        titles = ", ".join(TITLES.get(name, name) for name in names)
        lines.append(f"- {titles}: {key}.")
    lines += _not_measured(results)
    lines += ["", "`make bench` repeats all of it and rewrites this section."]
    return "\n".join(lines)


def _by_machine(results: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What measured, with the questions that it measured."""
    groups: dict[str, list[str]] = {}
    for name in questions(results):
        made_by = results[name]["made_by"]
        key = f"{report.describe(made_by)}, Python {made_by['python']}, {made_by['date']}"
        groups.setdefault(key, []).append(name)
    return groups


def _not_measured(results: dict[str, dict[str, Any]]) -> list[str]:
    """What these figures do not show."""
    lines = []
    if all(result["made_by"]["gpu"] is None for result in results.values()):
        lines.append(
            "- Not measured: anything on a GPU. The Triton kernels are known statically alone: "
            "registers, shared memory and spills of every compiled variant are in "
            "[`kernels/budgets.json`](../kernels/budgets.json); they have no times here."
        )
    rows = [row for result in results.values() for row in result["rows"]]
    failed = sum("failed" in row for row in rows)
    if failed:
        lines.append(f"- Failed their check, so without a time: {failed} rows.")
    sides = {(row["side"], row["skipped"]) for row in rows if "skipped" in row}
    missing = sorted({side for side, reason in sides if "install" in reason})
    if missing:
        lines.append(f"- Not installed there, so left out: {', '.join(missing)}.")
    return lines


def draw(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Bars of the middle ratios on a log axis, with the span over all cases.

    Args:
        results: By question.
        file: PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = []
    for name in questions(results):
        entries = [e for e in compared(results[name]["rows"]) if not _is_size(e)]
        if entries:
            groups.append((TITLES.get(name, name), entries))
    ratios = [ratio for _, entries in groups for e in entries for ratio in e["ratios"]]
    low, high = min(0.8, *ratios) * 0.9, max(2.0, *ratios) * 2.2
    count = sum(len(entries) for _, entries in groups) + len(groups)
    style: dict[Any, Any] = {"font.size": 10.5, "text.color": INK, "axes.edgecolor": LEVEL_COLOUR}
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            figsize=(8.6, 1.25 + 0.34 * count), dpi=150, layout="constrained", facecolor="white"
        )
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        y, ticks, labels = 0.0, [], []
        for title, entries in groups:
            axes.text(
                -0.012, y, title, transform=axes.get_yaxis_transform(), ha="right", va="center",
                fontweight="bold",
            )  # fmt: skip
            for entry in entries:
                y += 1
                _bar(axes, y, entry)
                ticks.append(y)
                labels.append(entry["side"])
            y += 1.25
        axes.set_yticks(ticks, labels)
        axes.set_ylim(y - 0.5, -0.7)
        axes.axvline(1, color=INK, linewidth=1, zorder=2)
        marks = [mark for mark in (0.1, 0.2, 0.5, 1, 2, 5, *_decades(high)) if low < mark < high]
        axes.set_xticks(marks, [f"{mark:g}x" for mark in marks])
        axes.set_xticks([], minor=True)
        axes.xaxis.grid(True, color=GRID, zorder=0)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=INK)
        for name in ("top", "right", "left", "bottom"):
            axes.spines[name].set_visible(False)
        figure.suptitle(
            "How many times faster fastad is", x=0.01, ha="left", fontsize=14, fontweight="bold"
        )
        axes.set_title(
            f"bar: the case in the middle; thin line: all cases; {_where(results)}",
            loc="right", fontsize=9, color=LEVEL_COLOUR,
        )  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, facecolor="white")
        plt.close(figure)


def _bar(axes: Any, y: float, entry: dict[str, Any]) -> None:
    ratios, middle = entry["ratios"], entry["row"]["ratio"]
    ahead = middle >= 1
    colour = AD_COLOUR if ahead else SOURCE_COLOUR
    axes.barh(y, middle - 1, left=1, height=0.66, color=colour, zorder=3)
    axes.plot([ratios[0], ratios[-1]], [y, y], color=INK, linewidth=1.1, alpha=0.7, zorder=4)
    axes.annotate(
        factor(middle), (max(1, middle, ratios[-1]), y), xytext=(5, 0),
        textcoords="offset points", va="center", fontweight="bold", color=colour,
    )  # fmt: skip


def _decades(high: float) -> list[float]:
    """10, 100, and so on."""
    return [10.0**power for power in range(1, 7) if 10.0**power < high]


def _is_size(entry: dict[str, Any]) -> bool:
    return entry["row"]["unit"] in report.LESS_IS_BETTER


def _where(results: dict[str, dict[str, Any]]) -> str:
    devices = {r["made_by"]["gpu"] or f"{r['made_by']['threads']} CPU threads"
               for r in results.values()}  # fmt: skip
    return ", ".join(sorted(devices)).replace("1 CPU threads", "1 CPU thread")


def insert(text: str, new: str) -> str:
    """Put `new` between the markers of `text`.

    Raises:
        UserError: If they are not there.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f"the page has no {BEGIN} and {END}; put them where the table belongs")
    return f"{head}{BEGIN}\n\n{new}\n\n{END}{tail}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "speed.md")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "benchmarks.png")
    options = parser.parse_args(arguments)
    try:
        results = report.read(options.results) if options.results.is_dir() else {}
        if not any("ratio" in row for result in results.values() for row in result["rows"]):
            raise UserError(
                f"results={options.results} holds no comparison; run "
                f"`fastad bench --out {options.results}` first"
            )
        quick = [name for name, result in results.items() if result["made_by"]["quick"]]
        if quick:
            raise UserError(f"{', '.join(quick)}: measured with --quick, which measures nothing")
        page = options.page.read_text()
        figure = options.figure.resolve().relative_to(options.page.resolve().parent).as_posix()
        new = insert(page, section(results, figure))
        draw(results, options.figure)
        options.page.write_text(new)
    except UserError as error:
        print(f"benchmarks/speed_page.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.figure} and the section of {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
