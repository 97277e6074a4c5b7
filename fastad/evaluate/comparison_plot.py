"""A comparison as a picture: a line each, named where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastad.evaluate.comparison import Family
from fastad.evaluate.comparison_figures import figures_of_family, points
from fastad.evaluate.comparison_style import (
    LABEL_GAP,
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
from fastad.evaluate.metrics import Estimate
from fastad.evaluate.plots import INK, import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.0, 3.7  # inches: without names, of the axes at least
LEFT, BELOW, ABOVE = 0.7, 0.6, 0.6
MAX_POINTS = 50  # of a line, about; single pulls of a bandit would be noise


def draw_family(family: Family) -> Figure:
    """Draw what every line returned, by the environment episodes of its learner.

    Scores where chance and optimum are known: 0 and 1. Bands are 95 % intervals over tasks and
    seeds; where a setting is varied, the many lines have none.

    Raises:
        UserError: If Matplotlib cannot be imported.
    """
    import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figures = figures_of_family(family)
    is_scored = family.scale is not None
    styled = _styled(figures)
    # Names are as long and as many as they are: the picture is as large as they need.
    across = WIDTH + LETTER * (8 + max(len(line["label"]) for line in figures["lines"]))
    notes = notes_of(figures, "" if family.varied else "bands", across)
    inside = max(HEIGHT, LABEL_GAP * len(styled))
    height = ABOVE + NOTE * len(notes) + inside + BELOW
    figure = Figure(figsize=(across, height), dpi=150)
    axes = figure.add_axes(
        (LEFT / across, BELOW / height, (WIDTH - LEFT) / across, inside / height)
    )
    width = max(1, family.num_episodes // MAX_POINTS)
    lines = dict(zip([line.label for line in family.lines], family.lines, strict=True))
    labels = [
        _draw_line(
            axes,
            told,
            style,
            *points(lines[told["label"]], family, width),
            is_scored=is_scored,
            has_band=family.varied is None,
        )
        for told, style in styled
    ]
    levels = levels_of(figures, is_scored)
    dress(axes, levels)
    axes.set_xlim(0, family.num_episodes)
    set_height(axes, levels)
    place_labels(axes, labels)
    averaged = f", means of {width}" if width > 1 else ""
    axes.set_xlabel(f"environment episodes of one learner{averaged}", fontsize=10.5, color=INK)
    axes.set_ylabel(
        "score: chance 0, optimum 1" if is_scored else "return per episode",
        fontsize=10.5, color=INK,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    head(figure, figures, notes)
    return figure


def _styled(figures: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every line that is drawn, with how: methods in colours, controls thin, sources dark."""
    colours = colours_of(figures)
    thinner = {"linewidth": 1.8} if figures["varied"] else {}
    return [
        (
            line,
            {"color": colours.get(line["of"] or line["label"], INK), **STYLES[line["kind"]]}
            | (thinner if line["kind"] == "method" else {}),
        )
        for line in figures["lines"]
        if line["kind"] != "random"
    ]


def _draw_line(
    axes: Axes,
    line: dict[str, Any],
    style: dict[str, Any],
    episodes: list[int],
    means: Estimate,
    *,
    is_scored: bool,
    has_band: bool,
) -> Label:
    """A curve with its interval; returns where it ends, what its label says, and its style."""
    shown = means.mean.tolist()
    if means.interval is not None and has_band and line["kind"] in ("method", "source"):
        axes.fill_between(
            episodes, *means.interval, color=style["color"], alpha=0.11, lw=0,
            zorder=style["zorder"] - 1,
        )  # fmt: skip
    axes.plot(episodes, shown, label=line["label"], solid_capstyle="round", **style)
    final = line["final_score" if is_scored else "final"]["mean"]
    value = final if line["kind"] in ("method", "control") else shown[-1]
    return (episodes[-1], shown[-1]), f"{line['label']}  {value:z.2f}", style
