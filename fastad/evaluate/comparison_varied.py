"""What comes of a setting that a comparison varies, as a picture: how all ends, by its value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.evaluate.comparison import Family
from fastad.evaluate.comparison_figures import figures_of_family
from fastad.evaluate.comparison_style import (
    LETTER,
    NOTE,
    STYLES,
    Label,
    colours_of,
    dress,
    head,
    levels_of,
    notes_of,
    place_labels,
    set_height,
)
from fastad.evaluate.plots import INK, import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: of a panel; what is left, right, above and below.
WIDTH, HEIGHT, LEFT, RIGHT, BELOW, ABOVE = 4.4, 3.2, 0.7, 0.5, 0.6, 0.95
# What values are of, where their name does not tell.
NAMES = {"context_episodes": "context_episodes: attention's context in each layer"}


def draw_varied(family: Family) -> Figure:
    """Draw how every method ended, and how many found the reward, by the value that is varied.

    Bars are 95 % intervals over tasks and seeds, dots single seeds. What has no value of its own,
    as a source, is a level; chance and the optimum are dashed. Values that grow by a factor stand
    on a logarithmic axis.

    Raises:
        UserError: If Matplotlib cannot be imported.
    """
    import_matplotlib()
    from matplotlib.figure import Figure

    figures = figures_of_family(family)
    is_scored = family.scale is not None
    end, title = ("final_score", "score") if is_scored else ("final", "return")
    panels = [(end, f"final {title}, {_end(figures)}", levels_of(figures, is_scored))]
    if any("found" in line for line in figures["lines"]):
        chance = [line["found"]["mean"] for line in figures["lines"] if line["kind"] == "random"]
        title = f"rollouts that ever found the reward{' (dashed: chance)' if chance else ''}"
        panels.append(("found", title, [*chance, 1.0]))
    series = _series(figures)
    across = len(panels) * (LEFT + WIDTH + RIGHT) + LETTER * (max(map(len, series)) + 4)
    bars = "dots: seeds; bars" if len(figures["seeds"]) > 1 else "bars"
    notes = notes_of(figures, bars, across)
    height = ABOVE + NOTE * len(notes) + HEIGHT + BELOW
    figure = Figure(figsize=(across, height), dpi=150)
    for place, (name, title, levels) in enumerate(panels):
        left = LEFT + place * (LEFT + WIDTH + RIGHT)
        box = (left / across, BELOW / height, WIDTH / across, HEIGHT / height)
        axes = figure.add_axes(box, label=name)
        axes.set_title(title, loc="left", fontsize=10.5, color=INK)
        labels = _draw_panel(axes, figures, series, name)
        numbers = [(end, f"{end[1]:z.2f}", style) for end, _, style in labels]
        dress(axes, levels)
        set_height(axes, [0.0, *levels] if name == "found" else levels)
        place_labels(axes, labels if place == len(panels) - 1 else numbers)
    head(figure, figures, notes)
    return figure


def _end(figures: dict[str, Any]) -> str:
    count = figures["lines"][0]["final_episodes"]
    return f"mean of the last {count} episodes" if count > 1 else "of the last episode"


def _series(figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The lines that are drawn: those of a series together."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in figures["lines"]:
        if line["series"]:
            found.setdefault(line["series"], []).append(line)
    return found


def _draw_panel(
    axes: Axes, figures: dict[str, Any], series: dict[str, list[dict[str, Any]]], name: str
) -> list[Label]:
    """Draw one figure of every series by value; returns what names them at their ends."""
    values = dict.fromkeys(line["value"] for line in figures["lines"] if "value" in line)
    places = _set_values(axes, [*values], figures["varied"])
    is_joined = _are_numbers(values)  # words lie on no line
    colours, labels = colours_of(figures), []
    for title, lines in series.items():
        told = [line for line in lines if line.get(name, {}).get("mean") is not None]
        if not told:
            continue
        style = {"color": colours.get(lines[-1]["of"] or title, INK), **STYLES[lines[0]["kind"]]}
        if "value" in told[0]:
            told.sort(key=lambda line: places[line["value"]])
            at = [places[line["value"]] for line in told]
            _draw_points(
                axes, at, [line[name] for line in told],
                style if is_joined else style | {"linestyle": "none"},
            )  # fmt: skip
        else:
            at = [axes.get_xlim()[1]]
            axes.axhline(told[0][name]["mean"], **style)
        mean = told[-1][name]["mean"]
        labels.append(((at[-1], mean), f"{mean:z.2f}  {title}", style))
    return labels


def _draw_points(
    axes: Axes, at: list[float], summaries: list[dict[str, Any]], style: dict[str, Any]
) -> None:
    """Means with their intervals, and the means of single seeds as dots."""
    axes.plot(at, [summary["mean"] for summary in summaries], marker="o", markersize=6, **style)
    for place, summary in zip(at, summaries, strict=True):
        if summary["interval"] is not None:
            axes.vlines(place, *summary["interval"], color=style["color"], lw=1.4, alpha=0.55)
        seeds = [value for value in summary["by_seed"].values() if value is not None]
        if len(seeds) > 1:
            axes.scatter(
                [place] * len(seeds), seeds, s=9, color="white", linewidths=0.8,
                edgecolors=style["color"], zorder=5,
            )  # fmt: skip


def _set_values(axes: Axes, values: list[Any], name: str) -> dict[Any, float]:
    """Let the axis show the values alone; returns where each stands: words side by side."""
    from matplotlib.ticker import NullLocator

    is_scale = _are_numbers(values)
    places = {value: float(value if is_scale else at) for at, value in enumerate(values)}
    low, high = min(places.values()), max(places.values())
    if is_scale and is_geometric(values):
        axes.set_xscale("log")
        room = (high / low) ** 0.06
        axes.set_xlim(low / room, high * room)
    else:
        room = 0.06 * (high - low) or 1.0
        axes.set_xlim(low - room, high + room)
    axes.set_xticks([*places.values()], [str(value) for value in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(NAMES.get(name, name), fontsize=10.5, color=INK)
    return places


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def is_geometric(values: Sequence[float]) -> bool:
    """Whether numbers grow by a factor rather than by a step: their logarithms lie more evenly."""
    values = sorted(values)
    if len(values) < 3 or values[0] <= 0:
        return False
    steps, factors = np.diff(values), np.diff(np.log(values))
    return float(np.std(factors) / np.mean(factors)) < float(np.std(steps) / np.mean(steps))
