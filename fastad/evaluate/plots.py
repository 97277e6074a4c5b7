"""Pictures of learning in context."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastad.base.errors import UserError
from fastad.base.outputs import write_picture

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
INK, GRID = "#22313f", "#e6e9ec"
AD_COLOUR, SOURCE_COLOUR, LEVEL_COLOUR = "#0b6e8a", "#d1733c", "#8a949e"


def plot_returns(
    path: Path,
    *,
    returns: np.ndarray,
    interval: np.ndarray | None,
    sources: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    title: str,
    subtitle: str,
) -> None:
    """Draw return per episode with its interval, beside the source and fixed levels.

    Args:
        path: What to write; ends with one of `PICTURE_SUFFIXES`.
        returns: Mean return of each episode, (episodes,).
        interval: (2, episodes); None where there is none.
        sources: The source's own mean returns on the same tasks by label, which says what it
            knows: as it acted, then without its action noise.
        levels: Horizontal lines by name, e.g. random and optimal.
        title: What is shown, in one sentence.
        subtitle: How it was measured.
    """
    matplotlib = import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    episodes = np.arange(1, len(returns) + 1)
    style: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
        axes = figure.subplots()
        for name, level in levels.items():
            axes.axhline(level, color=LEVEL_COLOUR, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate(
                f"{name} {level:.2f}",
                (1.0, level),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=LEVEL_COLOUR,
            )
        marker = "o" if len(returns) <= 30 else None
        for style_of_line, (label, curve) in zip(("-", ":"), sources.items(), strict=False):
            shown = list(curve)[: len(returns)]
            axes.plot(
                episodes[: len(shown)], shown, color=SOURCE_COLOUR, linewidth=1.6, marker=marker,
                markersize=4, label=label, linestyle=style_of_line, zorder=2,
            )  # fmt: skip
        label = "algorithm distillation"
        if interval is not None:
            axes.fill_between(episodes, interval[0], interval[1], color=AD_COLOUR, alpha=0.18, lw=0)
            label += ", 95 % interval"
        axes.plot(
            episodes, returns, color=AD_COLOUR, linewidth=2.4, marker=marker, markersize=5,
            label=label, zorder=3,
        )  # fmt: skip
        axes.set_xlabel("episode in context")
        axes.set_ylabel("return per episode")
        axes.set_xlim(1 - 0.02 * len(returns), len(returns) * 1.02)
        axes.yaxis.grid(True, color=GRID, zorder=0)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(frameon=False, loc="outside lower center", ncols=1, fontsize=9.5)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
        axes.set_title(subtitle, loc="left", fontsize=9.5, color=LEVEL_COLOUR)
        image = io.BytesIO()
        figure.savefig(image, format=path.suffix[1:].lower())
    write_picture(path, image.getvalue())


def import_matplotlib() -> Any:
    """Matplotlib, whatever backend the environment names: we draw to files and need none.

    A notebook names its own to every program it starts, which need not have it.

    Raises:
        UserError: If it cannot be imported.
    """
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    except (ImportError, ValueError) as error:
        raise UserError(
            f"pictures need matplotlib, which cannot be imported ({error}); reinstall it"
        ) from error
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    return matplotlib
