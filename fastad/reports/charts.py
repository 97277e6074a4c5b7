"""What Plotly draws, as plain values. Colours are names that the page's style gives a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any

from fastad.evaluate.comparison import Family
from fastad.evaluate.comparison_figures import points
from fastad.evaluate.comparison_style import METHOD_COLOURS, SOURCE_COLOURS
from fastad.reports.runs import Reported

MAX_POINTS = 60  # of a curve of returns, about
MAX_RECORDS = 500  # of a training curve
DASHES = {"control": "dash", "baseline": "dash", "source_own_episodes": "dot",
          "source_as_it_acted": "dashdot"}  # fmt: skip
WIDTHS = {"method": 2.8, "source": 2.2}
Chart = dict[str, Any]


def colours_of(figures: dict[str, Any]) -> dict[str, str]:
    """The name of the colour of every line, by label: a control has its method's, as sources."""
    colours: dict[str, str] = {}
    for kind, palette in (("method", METHOD_COLOURS), ("source", SOURCE_COLOURS)):
        lines = [line for line in figures["lines"] if line["kind"] == kind]
        names = cycle(f"--{kind}-{place}" for place in range(len(palette)))
        by_series = dict(zip(dict.fromkeys(line["series"] for line in lines), names, strict=False))
        colours |= {line["label"]: by_series[line["series"]] for line in lines}
    for line in figures["lines"]:
        colours.setdefault(line["label"], colours.get(line["of"], "--level"))
    return colours


def returns_chart(family: Family, figures: dict[str, Any], trained_until: int | None) -> Chart:
    """Return per episode of every line, with 95 % intervals, between chance and optimum.

    Args:
        family: To be drawn.
        figures: Its figures.
        trained_until: The last episode that training windows showed.
    """
    width, colours = max(1, family.num_episodes // MAX_POINTS), colours_of(figures)
    data = []
    for line in family.lines:
        if line.kind == "random":
            continue
        episodes, means = points(line, family, width, scored=False)
        colour = colours[line.label]
        told = [""] * len(episodes)
        if means.interval is not None:
            low, high = means.interval.tolist()
            told = [f" ({a:.2f} to {b:.2f})" for a, b in zip(low, high, strict=True)]
            if line.kind in ("method", "source"):
                data += _band(episodes, low, high, colour)
        data.append({
            "x": episodes, "y": means.mean.tolist(), "name": escape(line.label),
            "customdata": told, "mode": "lines+markers" if len(episodes) <= 30 else "lines",
            "line": {"color": colour, "width": WIDTHS.get(line.kind, 1.5),
                     "dash": DASHES.get(line.kind, "solid")},
            "marker": {"size": 6 if line.kind == "method" else 4, "color": colour},
            "hovertemplate": "episode %{x}: %{y:.2f}%{customdata}",
        })  # fmt: skip
    layout = _layout(
        "environment episodes of one learner" + (f"<br>means of {width}" if width > 1 else ""),
        "return per episode",
    )
    layout["xaxis"] |= {"range": [min(0.6, 1 - 0.02 * family.num_episodes),
                                  family.num_episodes * 1.02 + 0.2]}  # fmt: skip
    if family.num_episodes <= 10:
        layout["xaxis"]["dtick"] = 1  # there is no half of an episode
    layout["shapes"], layout["annotations"] = _levels(figures)
    if trained_until is not None and 0 < trained_until < family.num_episodes:
        _shade_beyond(layout, trained_until)
    name = f"Return per episode in {family.env}, every line with its interval; a table follows"
    return {"data": data, "layout": layout, "label": name}


def _band(episodes: list[int], low: list[float], high: list[float], colour: str) -> list[Chart]:
    shared = {"x": episodes, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip",
              "showlegend": False}  # fmt: skip
    return [
        shared | {"y": low},
        shared | {"y": high, "fill": "tonexty", "fillcolor": f"{colour}/0.16"},
    ]


def _levels(figures: dict[str, Any]) -> tuple[list[Chart], list[Chart]]:
    """Dashed lines for chance and the optimum, with their names."""
    shapes, names = [], []
    for name, key in (("optimum", "optimal_return"), ("chance", "random_return")):
        level = figures[key]
        if level is None:
            continue
        shapes.append({
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level,
            "line": {"color": "--level", "width": 1.2, "dash": "4px,4px"}, "layer": "below",
        })  # fmt: skip
        names.append({
            "xref": "paper", "x": 1, "xanchor": "right", "y": level, "yanchor": "bottom",
            "text": f"{name} {level:.2f}", "showarrow": False, "font": {"size": 12},
        })  # fmt: skip
    return shapes, names


def _shade_beyond(layout: dict[str, Any], trained_until: int) -> None:
    shade = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "xref": "x", "layer": "below",
             "x0": trained_until + 0.5, "x1": layout["xaxis"]["range"][1],
             "fillcolor": "--level/0.08", "line": {"width": 0}}  # fmt: skip
    told = {"x": trained_until + 0.5, "xanchor": "left", "yref": "paper", "y": 0.02,
            "yanchor": "bottom", "text": "beyond training windows", "showarrow": False,
            "font": {"size": 12}}  # fmt: skip
    layout["shapes"].append(shade)
    layout["annotations"].append(told)


def training_charts(
    runs: Sequence[Reported], colours: dict[str, str], env: str = ""
) -> list[Chart]:
    """Loss, learning rate, and returns in rollouts while training, as far as the logs tell them.

    Args:
        runs: Of one family.
        colours: Of their lines, by title.
        env: Their environment's name, where a page has several.
    """
    kinds = (
        ("loss", "loss", "log"),
        ("learning_rate", "learning rate", "linear"),
        ("eval_last", "return in the last episode, validation", "linear"),
    )
    charts = []
    for key, name, scale in kinds:
        data = [_curve(shown, key, colours[shown.title]) for shown in runs]
        data = [curve for curve in data if curve["x"]]
        if not data:
            continue
        positive = all(value > 0 for curve in data for value in curve["y"])
        layout = _layout("updates", "")
        ticks = _log_ticks(data) if scale == "log" and positive else []
        if len(ticks) > 1:  # else it is so narrow that a logarithm shows nothing more
            words = [f"{tick:g}" for tick in ticks]
            layout["yaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": words}
        name = f"{name}, {env}" if env else name
        title = {"text": escape(name), "font": {"size": 14}, "x": 0.02}
        layout |= {"height": 250, "title": title}
        layout["margin"] = layout["margin"] | {"t": 36}
        charts.append({"data": data, "layout": layout, "label": f"{name} by updates"})
    return charts


def _log_ticks(data: Sequence[Chart]) -> list[float]:
    """1, 2 and 5 of each power of ten among the values; of many powers these alone."""
    values = [value for curve in data for value in curve["y"]]
    low, high = min(values), max(values)
    leading = (1, 2, 5) if high < 1000 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in leading]
    return [tick for tick in ticks if low <= tick <= high]


def _curve(shown: Reported, key: str, colour: str) -> Chart:
    records = [record for record in shown.run.metrics if isinstance(record.get(key), float)]
    step = max(1, len(records) // MAX_RECORDS)
    thinned = records[::step]
    if records and thinned[-1] is not records[-1]:
        thinned.append(records[-1])
    return {
        "x": [record["step"] for record in thinned],
        "y": [record[key] for record in thinned],
        "mode": "lines" if len(thinned) > 1 else "markers",
        "name": escape(shown.title),
        "line": {"color": colour, "width": 1.8},
        "marker": {"color": colour},
        "hovertemplate": "update %{x}: %{y:.4g}",
    }


def _layout(across: str, upward: str) -> dict[str, Any]:
    axis = {"gridcolor": "--grid", "zerolinecolor": "--grid", "linecolor": "--grid",
            "automargin": True, "fixedrange": True}  # fmt: skip
    return {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "showlegend": False,
        "font": {"color": "--quiet", "size": 13}, "hovermode": "closest", "height": 400,
        "margin": {"l": 48, "r": 12, "t": 12, "b": 48},
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--grid", "namelength": -1,
                       "font": {"color": "--ink", "size": 13}},
        "xaxis": axis | {"title": {"text": across}, "showgrid": False},
        "yaxis": axis | {"title": {"text": upward}},
    }  # fmt: skip
