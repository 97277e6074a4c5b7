"""Pictures of learning in context."""

from __future__ import annotations

import io
import os
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.base.errors import UserError
from fastad.base.outputs import write_picture
from fastad.evaluate.metrics import estimate
from fastad.evaluate.table import MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastad.evaluate.result import Result

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
LINE = 95  # characters of the small print
INK, GRID = "#22313f", "#e6e9ec"
AD_COLOUR, SOURCE_COLOUR, LEVEL_COLOUR = "#0b6e8a", "#d1733c", "#8a949e"
# A rollout as many times as long as what training windows showed is drawn on a logarithmic axis, on
# which one sees both how it learns and how it goes on.
LONG, MAX_POINTS = 10, 100


def draw_result(result: Result) -> Figure:
    """Draw return per episode with its interval, beside the source and fixed levels.

    Raises:
        UserError: If Matplotlib cannot be imported.
    """
    import_matplotlib()
    from matplotlib.figure import Figure

    figures = result.figures()
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name in ("optimal", "random"):
        if figures[f"{name}_return"] is not None:
            _draw_level(axes, name, figures[f"{name}_return"])
    marker = "o" if result.num_episodes <= 30 else None
    label, points = result.label, _points(result)
    returns = estimate(np.stack([result.task_returns[:, part].mean(axis=1) for part in points], 1))
    episodes = [(part.start + part.stop + 1) / 2 for part in points]
    if returns.interval is not None:
        axes.fill_between(episodes, *returns.interval, color=AD_COLOUR, alpha=0.18, lw=0)
        label += ", 95 % interval"
    axes.plot(
        episodes, returns.mean, color=AD_COLOUR, linewidth=2.4, marker=marker, markersize=5,
        label=label, zorder=3,
    )  # fmt: skip
    for line, (label, curve) in zip(("-", ":"), _source_curves(figures).items(), strict=False):
        shown = curve[: result.num_episodes]
        axes.plot(
            range(1, len(shown) + 1), shown, color=SOURCE_COLOUR, linewidth=1.6, marker=marker,
            markersize=4, label=label, linestyle=line, zorder=2,
        )  # fmt: skip
    _draw_beyond(axes, result)
    axes.set_xlabel(
        ("episode after the prompt" if result.prompt else "episode in context")
        + (", neighbours averaged" if len(points) < result.num_episodes else ""),
        fontsize=11,
    )
    axes.set_ylabel("return per episode", fontsize=11)
    _set_episodes(axes, result)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, color=GRID, zorder=0)
    axes.set_axisbelow(True)
    legend = figure.legend(frameon=False, loc="outside lower center", ncols=1, fontsize=9.5)
    for text in legend.get_texts():
        text.set_text(textwrap.fill(text.get_text(), width=LINE))
    title = f"In-context reinforcement learning on {result.env}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    conditions = textwrap.fill(result.conditions, width=LINE)
    axes.set_title(conditions, loc="left", fontsize=9.5, color=LEVEL_COLOUR)
    return figure


def write_figure(figure: Figure, file: Path) -> None:
    """Write a figure as its file's name says, whole or not at all."""
    image = io.BytesIO()
    figure.savefig(image, format=file.suffix[1:].lower())
    write_picture(file, image.getvalue())


def _is_long(result: Result) -> bool:
    trained = result.trained_episodes
    return trained is not None and result.num_episodes >= LONG * trained


def _points(result: Result) -> list[slice]:
    """The episodes that each point of the curve is the mean of: one, but in long rollouts."""
    ends = np.arange(1, result.num_episodes + 1)
    if _is_long(result):
        ends = np.unique(np.geomspace(1, result.num_episodes, MAX_POINTS).round().astype(int))
    return [slice(int(end), int(last)) for end, last in pairwise([0, *ends])]


def _set_episodes(axes: Axes, result: Result) -> None:
    """Let the axis of episodes end with the last; logarithmic where they are many."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    num_episodes = result.num_episodes
    if not _is_long(result):
        axes.set_xlim(1 - 0.02 * num_episodes, num_episodes * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    axes.set_xscale("log")
    axes.set_xlim(0.95, num_episodes * 1.05)
    marks = [mark for mark in MARKS if mark <= num_episodes]
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_level(axes: Axes, name: str, level: float) -> None:
    """A horizontal line with its name at its right end."""
    axes.axhline(level, color=LEVEL_COLOUR, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"{name} {level:.2f}", (1.0, level), xycoords=("axes fraction", "data"), xytext=(4, 0),
        textcoords="offset points", va="center", color=LEVEL_COLOUR, fontsize=11,
    )  # fmt: skip


def _draw_beyond(axes: Axes, result: Result) -> None:
    """Shade the episodes beyond those that training windows showed."""
    trained = result.trained_until
    if trained is None or result.num_episodes <= trained:
        return
    axes.axvspan(trained + 0.5, result.num_episodes * 1.02, color=GRID, alpha=0.5, lw=0, zorder=0)
    axes.annotate(
        "beyond training windows", (trained + 0.5, 1.0), xycoords=("data", "axes fraction"),
        xytext=(4, -4), textcoords="offset points", va="top", color=LEVEL_COLOUR, fontsize=9.5,
    )  # fmt: skip


def _source_curves(figures: dict[str, Any]) -> dict[str, list[float]]:
    """The source's curves by label, with what sets it apart from a learner that knows nothing."""
    if not figures["source_returns"]:
        return {}
    name = f"source: {figures['source']}"
    if figures["source_knows"]:
        name += f" (knows {figures['source_knows']})"
    if not figures["source_action_noise"]:
        return {name: figures["source_returns"]}
    return {
        f"{name}, {figures['source_action_noise']:.0%} random actions": figures["source_returns"],
        "the same source without random actions": figures["source_returns_clean"],
    }


def import_matplotlib() -> None:
    """Import Matplotlib, whatever backend the environment names: we draw to files and need none.

    A notebook names its own to every program it starts, which need not have it.

    Raises:
        UserError: If it cannot be imported.
    """
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    except (ImportError, ValueError) as error:
        raise UserError(
            f"pictures need matplotlib, which cannot be imported ({error}); reinstall it"
        ) from error
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
