"""`fastad compare`: methods side by side, over seeds."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastad.base.config import typed
from fastad.base.errors import UserError, unknown
from fastad.compare_config import CompareConfig

if TYPE_CHECKING:
    from fastad.base.progress import Report
    from fastad.evaluate.comparison_files import Comparison
    from fastad.presets import Preset


def run_compare(config: CompareConfig) -> Comparison:
    """Do what is missing, write the figures, print tables, draw pictures."""
    from fastad.api.compare import compare, folder_of
    from fastad.api.plans import plans_of
    from fastad.base.outputs import check_folder, check_output, write_output
    from fastad.evaluate.comparison_table import print_family
    from fastad.evaluate.plots import import_matplotlib

    import_matplotlib()
    if config.json is not None:
        check_output("json", config.json)
    what = _named(config.what)
    if isinstance(what, list):
        out = config.out or Path("runs/comparison")
    else:
        out = folder_of(what, config)
        names, last = plans_of(what, config.methods), config.seed + config.seeds - 1
        seeds = f"seed {last}" if last == config.seed else f"seeds {config.seed} to {last}"
        each = "" if config.vary is None else f", each with {config.vary}"
        print(f"{what.summary}\n\n{', '.join(names)}{each}; {seeds}; to {out}\n")
    check_folder(f"out={out}", out)
    comparison = compare(what, config, watch=watch_work)
    files = comparison.save(out)
    figures = comparison.figures()
    if config.json is not None:
        write_output(config.json, figures)
    for family in figures["families"]:
        print()
        print_family(family)
    for file in files:
        print(f"{'picture' if file.suffix == '.png' else 'figures'}: {file}")
    print(f"next: {shlex.join(_next(config))}")
    return comparison


def _named(what: Sequence[str]) -> Preset | list[str | Path]:
    """The preset that is meant, or the runs.

    Raises:
        UserError: If neither is, or both are.
    """
    from fastad.presets import PRESETS, preset

    named = [word for word in what if word in PRESETS]
    if len(what) == 1 and named:
        return preset(what[0])
    if named:
        raise UserError(
            f"what={' '.join(what)}: {named[0]} is a preset, which is compared by itself; name it "
            "alone, or runs alone"
        )
    for word in what:
        if not Path(word).exists() and len(Path(word).parts) == 1:
            problem = unknown("preset", word, PRESETS)
            raise UserError(f"what={word}: {problem}, or name folders of runs")
    return [*what]


@contextmanager
def watch_work(unit: str, label: str) -> Iterator[Report]:
    """A bar, or lines, with the metrics that there is room for."""
    from fastad.base.progress import reporting
    from fastad.commands.train import SHOWN

    interval = 0.0 if unit == "updates" else 5.0
    with reporting(unit, label, interval=interval) as report:

        def show(done: int, total: int, **metrics: Any) -> None:
            report(done, total, **{k: v for k, v in metrics.items() if k in SHOWN})

        yield show


def _next(config: CompareConfig) -> list[str]:
    """The same with a control, or with more seeds where there is one."""
    more = replace(config, seeds=config.seeds + 2)
    if not config.controls:
        more = replace(config, controls=("no-reward",))
    return ["fastad", "compare", *config.what, *typed(replace(more, what=CompareConfig.what))]
