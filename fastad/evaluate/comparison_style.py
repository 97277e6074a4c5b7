"""What the pictures of a comparison share: colours, headings, and names where lines end."""

from __future__ import annotations

from itertools import cycle
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.evaluate.plots import GRID, INK, LEVEL_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), "Color Universal Design": told apart by colour-blind readers, too.
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00")
SOURCE_COLOURS = ("#222222", "#777777")
STYLES: dict[str, dict[str, Any]] = {
    "method": {"linewidth": 2.4, "zorder": 4},
    "control": {"linewidth": 1.1, "linestyle": (0, (5, 2)), "zorder": 3},
    "source": {"linewidth": 2.0, "zorder": 3},
    "baseline": {"linewidth": 1.4, "linestyle": (0, (6, 2)), "zorder": 2},
    "source_own_episodes": {"linewidth": 1.2, "linestyle": (0, (1, 1.5)), "zorder": 2},
    "source_as_it_acted": {"linewidth": 1.2, "linestyle": (0, (4, 2, 1, 2)), "zorder": 2},
}
PALEST = 0.6  # how much white is in the colour of the first of several values
# Inches: a line of notes, between the middles of two labels, a letter of a label and of a note,
# what stays free beside notes.
NOTE, LABEL_GAP, LETTER, NOTE_LETTER, MARGIN = 0.19, 0.19, 0.083, 0.07, 0.12

Label = tuple[tuple[float, float], str, dict[str, Any]]  # where a line ends, its name, its style


def colours_of(figures: dict[str, Any]) -> dict[str, str]:
    """Colours of methods and sources by label and by series, paler for earlier values."""
    colours: dict[str, str] = {}
    for kind, palette in (("method", METHOD_COLOURS), ("source", SOURCE_COLOURS)):
        lines = [line for line in figures["lines"] if line["kind"] == kind]
        series = dict.fromkeys(line["series"] for line in lines)
        for name, colour in zip(series, cycle(palette), strict=False):
            labels = [line["label"] for line in lines if line["series"] == name]
            for place, label in enumerate(reversed(labels)):
                colours[label] = paler(colour, PALEST * place / max(1, len(labels) - 1))
            colours[name] = colour
    return colours


def paler(colour: str, share: float) -> str:
    """A colour with a share of white."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (255 - part)):02x}" for part in parts)


def levels_of(figures: dict[str, Any], is_scored: bool) -> list[float]:
    """Where chance and optimum lie."""
    if is_scored:
        return [0.0, 1.0]
    known = (figures["random_return"], figures["optimal_return"])
    return [value for value in known if value is not None]


def dress(axes: Axes, levels: list[float]) -> None:
    """Take from axes what no reader needs, and draw what lines are read against."""
    for level in levels:
        axes.axhline(level, color=LEVEL_COLOUR, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.tick_params(labelsize=10, colors=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LEVEL_COLOUR)
    axes.yaxis.grid(True, color=GRID, zorder=0)
    axes.set_axisbelow(True)


def set_height(axes: Axes, levels: list[float]) -> None:
    """From the lowest to the highest point of line or level; intervals beyond are cut."""
    drawn = np.concatenate([levels, *(np.asarray(line.get_ydata()) for line in axes.lines)])
    room = 0.06 * max(np.ptp(drawn), 1e-9)
    axes.set_ylim(drawn.min() - room, drawn.max() + room)


def head(figure: Figure, figures: dict[str, Any], notes: list[str]) -> None:
    """Write what was compared and how above a figure."""
    across, height = figure.get_size_inches()
    options = ", ".join(f"{name}={value}" for name, value in figures["env_options"].items())
    title = figures["env"] + (f" ({options})" if options else "")
    left, top = MARGIN / across, 1 - 0.3 / height
    figure.text(left, top, title, fontsize=13, fontweight="bold", color=INK)
    for place, note in enumerate(notes, start=1):
        figure.text(
            left, top - (place * NOTE + 0.04) / height, note, fontsize=9.5, color=LEVEL_COLOUR
        )


def notes_of(figures: dict[str, Any], shown: str, across: float) -> list[str]:
    """What the lines are means of, what the levels are, and what the sources know and spend.

    Args:
        figures: Of a family.
        shown: What stands for an interval; "" for nothing.
        across: Of the picture, in inches: lines are as long.
    """
    method = figures["lines"][0]
    seen = {
        "train": "tasks trained on",
        "validation": "validation tasks, never trained on",
        "test": "tasks never trained on",
    }
    seeds = len(figures["seeds"])
    over = "both" if seeds > 1 else "tasks"
    interval = f"; {shown}: 95 % intervals over {over}" if shown and method["interval"] else ""
    levels = ", ".join(
        f"{name} {figures[key]:.2f}"
        for name, key in (("chance returns", "random_return"), ("the optimum", "optimal_return"))
        if figures[key] is not None
    )
    spent = [
        f"{line['label']} plays {line['episodes_per_episode']} episodes for each of its own"
        for line in figures["lines"]
        if line["kind"] == "source" and line["episodes_per_episode"] > 1
    ]
    notes = [
        f"mean over {method['num_tasks']} {seen[figures['split']]}, "
        f"{method['rollouts_per_task']} rollouts each, and {seeds} training "
        f"seed{'s' if seeds != 1 else ''}{interval}",
        levels,
        *spent,
        *figures["source_knows"],
    ]
    width = int((across - 2 * MARGIN) / NOTE_LETTER)
    return [*wrap(notes[0], width), *wrap("; ".join(filter(None, notes[1:])), width)]


def place_labels(axes: Axes, labels: list[Label]) -> None:
    """Names beside the ends of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    inches = axes.bbox.height / axes.figure.dpi
    places = apart([y for (_, y), _, _ in labels], LABEL_GAP / inches * (high - low))
    for (end, text, style), place in zip(labels, places, strict=True):
        arrow = {"arrowstyle": "-", "color": style["color"], "lw": 0.6, "shrinkA": 1, "shrinkB": 0,
                 "relpos": (0.0, 0.5)}  # fmt: skip
        axes.annotate(
            text, end, xytext=(1.03, place), textcoords=("axes fraction", "data"), va="center",
            color=style["color"], fontsize=9.5, annotation_clip=False, arrowprops=arrow,
            fontweight="bold" if style["linewidth"] > 2.2 else "normal",
        )  # fmt: skip


def apart(places: list[float], gap: float) -> list[float]:
    """The nearest places that keep their order and lie `gap` apart, by pooling neighbours.

    With the k-th place lowered by k gaps they have to be non-decreasing: isotonic regression.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, count = places[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, number = blocks.pop()
            mean = (mean * count + before * number) / (count + number)
            count += number
        blocks.append((mean, count))
    lowered = [mean for mean, count in blocks for _ in range(count)]
    found = [0.0] * len(places)
    for rank, index in enumerate(order):
        found[index] = lowered[rank] + rank * gap
    return found
