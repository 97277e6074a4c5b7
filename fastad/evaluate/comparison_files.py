"""A whole comparison: its families, their figures, and the files that it leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastad.base.outputs import check_folder, write_output, write_text
from fastad.evaluate.comparison import Family
from fastad.evaluate.comparison_figures import figures_of_family
from fastad.evaluate.comparison_plot import draw_family
from fastad.evaluate.comparison_table import as_csv, returns_rows, table_rows
from fastad.evaluate.comparison_varied import draw_varied
from fastad.evaluate.plots import write_figure

STEM = "comparison"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods beside each other, in one environment or several; see `fastad.compare`.

    Attributes:
        families: One per environment with its options.
    """

    families: tuple[Family, ...]

    def figures(self) -> dict[str, Any]:
        """Every figure as plain JSON values by name, all seeds included.

        What the JSON of `fastad rollout` has stands at the top, of plain AD (of the first method,
        where that is not among them) in the first environment; `families` holds the rest.
        """
        families = [figures_of_family(family) for family in self.families]
        return _at_the_top(self.families[0], families[0]) | {"families": families}

    def save(self, folder: str | Path) -> list[Path]:
        """Write figures, tables and pictures, over those of an earlier comparison.

        They are comparison.json; comparison.csv, the tables; comparison-returns.csv, the mean
        return of every line, seed and task; comparison-ENV.png. Where a setting is varied, its name
        is in each, as comparison-window.json; its last picture, comparison-window-ENV-final.png,
        shows how all ended by value.

        Returns:
            The files.

        Raises:
            UserError: If nothing can be written there, or Matplotlib cannot be imported.
        """
        folder = Path(folder)
        check_folder(f"folder={folder}", folder)
        figures = self.figures()
        json, table, returns = (
            folder / f"{self._stem}{end}" for end in (".json", ".csv", "-returns.csv")
        )
        write_output(json, figures)
        write_text(table, as_csv(row for told in figures["families"] for row in table_rows(told)))
        write_text(returns, as_csv(row for family in self.families for row in returns_rows(family)))
        pictures = [folder / f"{name}.png" for name in self._names()]
        for family, picture in zip(self.families, pictures, strict=True):
            write_figure(draw_family(family), picture)
        for family, picture in zip(self.families, pictures[:], strict=True):
            if family.varied is not None:
                pictures.append(picture.with_name(f"{picture.stem}-final.png"))
                write_figure(draw_varied(family), pictures[-1])
        return [json, table, returns, *pictures]

    @property
    def _stem(self) -> str:
        varied = self.families[0].varied
        return STEM if varied is None else f"{STEM}-{varied}"

    def _names(self) -> list[str]:
        """A name for each family's picture, numbered where an environment has several options."""
        plain = [re.sub(r"[^\w.-]+", "-", family.env) for family in self.families]
        return [
            f"{self._stem}-{name}"
            + (f"-{plain[:place].count(name) + 1}" if name in plain[:place] else "")
            for place, name in enumerate(plain)
        ]


def _at_the_top(family: Family, figures: Mapping[str, Any]) -> dict[str, Any]:
    label = figures["reference"] or figures["lines"][0]["label"]
    shown = next(line for line in figures["lines"] if line["label"] == label)
    source = next((line for line in figures["lines"] if line["label"] == shown["source"]), None)
    line = family.line(label)
    assert line is not None
    return {
        "label": label,
        "returns": shown["returns"],
        "interval": shown["interval"],
        "source_returns": [] if source is None else source["returns"],
        "random_return": family.random_return,
        "optimal_return": family.optimal_return,
        "train_seconds": _mean([tried.train_seconds for tried in line.tried.values()]),
        "steps_per_second_cached": _mean([t.steps_per_second for t in line.tried.values()]),
        "seed": family.seeds[0],
        "seeds": family.seeds,
        "versions": dict(family.versions),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
