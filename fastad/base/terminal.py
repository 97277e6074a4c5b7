"""Names and values in two columns, and curves in a line of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastad.base.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

CURVE_WIDTH = 60
FINE, COARSE = "▁▂▃▄▅▆▇█", "_.-=+*#@"


def print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, which may come from anywhere, in two columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(printable(value)))
    console.print(table)


def curve_text(console: Console, values: Sequence[float]) -> Text:
    """A curve between its first and its last value, in characters that the console has."""
    from rich.text import Text

    levels = FINE if console.encoding.lower().startswith("utf") else COARSE
    return Text(f"{values[0]:.3g} {sparkline(values, levels=levels)} {values[-1]:.3g}")


def sparkline(values: Sequence[float], *, width: int = CURVE_WIDTH, levels: str = FINE) -> str:
    """A curve of at most `width` characters, lowest value to highest; longer ones are binned.

    Args:
        values: In order; at least one.
        width: Characters at most.
        levels: Characters from low to high.
    """
    import numpy as np

    binned = [part.mean() for part in np.array_split(np.asarray(values), min(width, len(values)))]
    low, span = min(binned), max(binned) - min(binned)
    top = len(levels) - 1
    return "".join(levels[round((v - low) / span * top) if span > 0 else 0] for v in binned)
