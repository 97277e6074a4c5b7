"""Which runs a report shows, and what rollouts of them are there already."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastad.base.errors import UserError
from fastad.envs.family import Split
from fastad.evaluate.comparison import Entry
from fastad.evaluate.kept_results import kept_results
from fastad.evaluate.result import Result
from fastad.histories.schema import INFO_FILE
from fastad.training.checkpoint_folder import find_checkpoint, step_of
from fastad.training.run import Run
from fastad.training.run_files import CONFIG

MAX_RUNS = 64
FIX = "name a folder that `fastad train`, `fastad demo` or `fastad compare` wrote"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reported:
    """A run on the page.

    Attributes:
        run: The run.
        name: Shared by runs that differ in nothing but their seed.
        results: That without a control, then one of every control that it was tried with.
        title: What it alone is called on the page, see `titled`.
    """

    run: Run
    name: str
    results: tuple[Result, ...] = ()
    title: str = ""

    @property
    def entries(self) -> list[Entry]:
        """Its results, to be set beside those of others."""
        return [
            Entry(self.name, self.run.seed, result, self.run.train_seconds)
            for result in self.results
        ]


def find_runs(places: Sequence[Run | str | Path]) -> list[Run]:
    """The runs that are meant by run folders, and by folders that hold some.

    Raises:
        UserError: If a place is none of these, or a run has no checkpoint.
    """
    if not places:
        raise UserError(f"runs= names nothing to report; {FIX}")
    found: dict[Path, Run] = {}
    for place in places:
        for run in [place] if isinstance(place, Run) else _runs_at(Path(place)):
            found.setdefault(run.path.resolve(), run)
    if len(found) > MAX_RUNS:
        raise UserError(f"runs= are {len(found)} runs; one page shows at most {MAX_RUNS}")
    for run in found.values():
        find_checkpoint(run.path)
    return list(found.values())


def _runs_at(place: Path) -> list[Run]:
    if not place.exists():
        raise UserError(f"runs={place} does not exist; {FIX}")
    if not place.is_dir():
        raise UserError(f"runs={place} is a file; {FIX}")
    if (place / CONFIG).is_file():
        return [Run(place)]
    inside = sorted(path for path in place.iterdir() if (path / CONFIG).is_file())
    if not inside:
        is_data = (place / INFO_FILE).is_file()
        told = "is a dataset, which `fastad inspect` shows" if is_data else "holds no run"
        raise UserError(f"runs={place} {told}; {FIX}")
    runs = [Run(path) for path in inside]
    whole = [run for run in runs if run.checkpoints]
    for run in runs:
        if run not in whole:
            _logger.info(f"{run.path} has no checkpoint yet, and is left out")
    if not whole:
        raise UserError(f"runs={place}: no run in it has a checkpoint yet; go on training")
    return whole


def reported(runs: Sequence[Run], split: Split) -> list[Reported]:
    """Every run with its name and the results that it keeps of its newest checkpoint."""
    names: dict[str, str] = {}
    shown = []
    for run in runs:
        path = run.path.resolve()
        # As `fastad demo` leaves it.
        name = path.parent.name if path.name == "run" else path.name
        if run.kind not in names and name in names.values():
            name = str(path)
        shown.append(Reported(run, names.setdefault(run.kind, name), kept(run, split)))
    return shown


def titled(shown: Sequence[Reported]) -> list[Reported]:
    """Runs by the labels of their results and their seeds; by names too where labels are alike."""
    names: dict[str, set[str]] = {}
    for one in shown:
        names.setdefault(one.results[0].label, set()).add(one.name)
    titles = [
        f"{label} ({one.name})" if len(names[label]) > 1 else label
        for one in shown
        for label in [one.results[0].label]
    ]
    return [
        replace(one, title=f"{title}, seed {one.run.seed}")
        for one, title in zip(shown, titles, strict=True)
    ]


def kept(run: Run, split: Split) -> tuple[Result, ...]:
    """The newest result of a run's newest checkpoint, and those of controls on its very tasks."""
    updates = step_of(find_checkpoint(run.path))
    found = [
        result
        for result in kept_results(run.path)
        if result.updates == updates and result.split == split and not result.prompt
    ]
    main = next((result for result in found if result.control == "none"), None)
    if main is None:
        return ()
    controls: dict[str, Result] = {}
    for result in found:
        if result.control != "none" and _is_beside(result, main):
            controls.setdefault(result.control, result)
    return (main, *controls.values())


def _is_beside(result: Result, main: Result) -> bool:
    """Whether a result is of the same tasks, tried as long with the same randomness."""
    return (
        result.seed == main.seed
        and result.returns.shape == main.returns.shape
        and np.array_equal(result.tasks, main.tasks)
    )


def control_command(run: Run, control: str = "no-reward") -> str:
    """What rolls a run out with something hidden from it."""
    return f"fastad rollout {shlex.quote(str(run.path))} --control {control}"
