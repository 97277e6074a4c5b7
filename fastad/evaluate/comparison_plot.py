"""A comparison as a picture: a line each, named where it ends."""

from __future__ import annotations

from itertools import cycle
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.evaluate.comparison import Family
from fastad.evaluate.comparison_figures import figures_of_family, points
from fastad.evaluate.metrics import Estimate
from fastad.evaluate.plots import GRID, INK, LEVEL_COLOUR, import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), "Color Universal Design": told apart by colour-blind readers, too.
METHOD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00")
SOURCE_COLOURS = ("#222222", "#777777")
WIDTH, HEIGHT, NOTE = 7.0, 4.9, 0.19  # inches: without names, without notes, of a line of notes
NOTE_WIDTH = 115  # characters
MAX_POINTS = 50  # of a line, about; single pulls of a bandit would be noise
LABEL_GAP = 0.05  # of the height of the axes, between the middles of two labels


def draw_family(family: Family) -> Figure:
    """Draw what every line returned, by the environment episodes of its learner.

    Scores where chance and optimum are known: 0 and 1. Bands are 95 % intervals over tasks and
    seeds.

    Raises:
        UserError: If Matplotlib cannot be imported.
    """
    import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figures = figures_of_family(family)
    is_scored = family.scale is not None
    notes = _notes(figures)
    # Names are as long as they are: the picture is made as wide as they need.
    longest = max(len(line["label"]) for line in figures["lines"])
    across = WIDTH + 0.076 * (longest + 8)
    height = HEIGHT + NOTE * len(notes)
    figure = Figure(figsize=(across, height), dpi=150)
    axes = figure.add_axes(
        (0.7 / across, 0.6 / height, (WIDTH - 0.7) / across, (HEIGHT - 1.2) / height)
    )
    width = max(1, family.num_episodes // MAX_POINTS)
    lines = dict(zip([line.label for line in family.lines], family.lines, strict=True))
    labels = [
        _draw_line(axes, told, style, *points(lines[told["label"]], family, width), is_scored)
        for told, style in _styled(figures)
    ]
    levels = _levels(figures, is_scored)
    for level in levels:
        axes.axhline(level, color=LEVEL_COLOUR, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(0, family.num_episodes)
    _set_height(axes, levels)
    _place_labels(axes, labels)
    averaged = f", means of {width}" if width > 1 else ""
    axes.set_xlabel(f"environment episodes of one learner{averaged}", fontsize=10.5, color=INK)
    axes.set_ylabel(
        "score: chance 0, optimum 1" if is_scored else "return per episode",
        fontsize=10.5, color=INK,
    )  # fmt: skip
    axes.tick_params(labelsize=10, colors=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LEVEL_COLOUR)
    axes.yaxis.grid(True, color=GRID, zorder=0)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left, top = 0.12 / across, 1 - 0.3 / height
    figure.text(left, top, _title(family), fontsize=13, fontweight="bold", color=INK)
    for place, note in enumerate(notes, start=1):
        figure.text(
            left, top - (place * NOTE + 0.04) / height, note, fontsize=9.5, color=LEVEL_COLOUR
        )
    return figure


def _set_height(axes: Axes, levels: list[float]) -> None:
    """From the lowest to the highest point of any line; bands that reach beyond are cut."""
    drawn = np.concatenate([levels, *(np.asarray(line.get_ydata()) for line in axes.lines)])
    room = 0.06 * max(np.ptp(drawn), 1e-9)
    axes.set_ylim(drawn.min() - room, drawn.max() + room)


def _styled(figures: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every line that is drawn, with how: methods in colours, controls thin, sources dark."""
    colours: dict[str, str] = {}
    for kind, palette in (("method", METHOD_COLOURS), ("source", SOURCE_COLOURS)):
        labels = [line["label"] for line in figures["lines"] if line["kind"] == kind]
        colours |= dict(zip(labels, cycle(palette), strict=False))
    styles: dict[str, dict[str, Any]] = {
        "method": {"linewidth": 2.4, "zorder": 4},
        "control": {"linewidth": 1.1, "linestyle": (0, (5, 2)), "zorder": 3},
        "source": {"linewidth": 2.0, "zorder": 3},
        "baseline": {"linewidth": 1.4, "linestyle": (0, (6, 2)), "zorder": 2},
        "source_own_episodes": {"linewidth": 1.2, "linestyle": (0, (1, 1.5)), "zorder": 2},
        "source_as_it_acted": {"linewidth": 1.2, "linestyle": (0, (4, 2, 1, 2)), "zorder": 2},
    }
    return [
        (line, {"color": colours.get(line["of"] or line["label"], INK), **styles[line["kind"]]})
        for line in figures["lines"]
        if line["kind"] != "random"
    ]


def _draw_line(
    axes: Axes,
    line: dict[str, Any],
    style: dict[str, Any],
    episodes: list[int],
    means: Estimate,
    is_scored: bool,
) -> tuple[tuple[float, float], str, dict[str, Any]]:
    """A curve with its interval; returns where it ends, what its label says, and its style."""
    shown = means.mean.tolist()
    if means.interval is not None and line["kind"] in ("method", "source"):
        axes.fill_between(
            episodes, *means.interval, color=style["color"], alpha=0.11, lw=0,
            zorder=style["zorder"] - 1,
        )  # fmt: skip
    axes.plot(episodes, shown, label=line["label"], solid_capstyle="round", **style)
    final = line["final_score" if is_scored else "final"]["mean"]
    value = final if line["kind"] in ("method", "control") else shown[-1]
    return (episodes[-1], shown[-1]), f"{line['label']}  {value:z.2f}", style


def _levels(figures: dict[str, Any], is_scored: bool) -> list[float]:
    """Where chance and optimum lie."""
    if is_scored:
        return [0.0, 1.0]
    known = (figures["random_return"], figures["optimal_return"])
    return [value for value in known if value is not None]


def _place_labels(
    axes: Axes, labels: list[tuple[tuple[float, float], str, dict[str, Any]]]
) -> None:
    """Names beside the ends of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    places = _apart([y for (_, y), _, _ in labels], LABEL_GAP * (high - low))
    for (end, text, style), place in zip(labels, places, strict=True):
        arrow = {"arrowstyle": "-", "color": style["color"], "lw": 0.6, "shrinkA": 1, "shrinkB": 0,
                 "relpos": (0.0, 0.5)}  # fmt: skip
        axes.annotate(
            text, end, xytext=(1.03, place), textcoords=("axes fraction", "data"), va="center",
            color=style["color"], fontsize=9.5, annotation_clip=False, arrowprops=arrow,
            fontweight="bold" if style["linewidth"] > 2.2 else "normal",
        )  # fmt: skip


def _apart(places: list[float], gap: float) -> list[float]:
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


def _title(family: Family) -> str:
    options = ", ".join(f"{name}={value}" for name, value in family.env_options.items())
    return family.env + (f" ({options})" if options else "")


def _notes(figures: dict[str, Any]) -> list[str]:
    """What the lines are means of, what the levels are, and what the sources know and spend."""
    method = figures["lines"][0]
    seen = {
        "train": "tasks trained on",
        "validation": "validation tasks, never trained on",
        "test": "tasks never trained on",
    }
    seeds = len(figures["seeds"])
    over = "both" if seeds > 1 else "tasks"
    band = f"; bands: 95 % intervals over {over}" if method["interval"] else ""
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
        f"seed{'s' if seeds != 1 else ''}{band}",
        levels,
        *spent,
        *figures["source_knows"],
    ]
    return [*wrap(notes[0], NOTE_WIDTH), *wrap("; ".join(filter(None, notes[1:])), NOTE_WIDTH)]
