"""The trackers of one run, from its first update to its last, over all its sessions."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError, printable
from fastad.base.files import read_json, write_json
from fastad.training.run_files import DAMAGED, MAX_JSON_BYTES, TRACKED, read_made_by
from fastad.training.run_folder import RunFolder
from fastad.training.trackers import TRACKERS, Tracked, Tracker

Record = dict[str, Any]
_logger = logging.getLogger(__name__)


class Tracking:
    """Tells every tracker what is logged. One that fails is named once, and told no more.

    Args:
        trackers: By name; mutated.
        told: Lines that they have from a session that was stopped; whoever does not take them back
            is not told them again.
    """

    def __init__(self, trackers: dict[str, Tracker], told: Sequence[Record] = ()) -> None:
        self._trackers = trackers
        self._told = {_line(record["step"], record) for record in told}

    def log(
        self, step: int, metrics: Mapping[str, Any], *, only: Container[str] | None = None
    ) -> None:
        """Pass one line of the log on, to all or to those that are named."""
        figures = scalars(metrics)
        again = _line(step, metrics) in self._told
        for name, tracker in [*self._trackers.items()]:
            if (again and not tracker.takes_back) or (only is not None and name not in only):
                continue
            try:
                tracker.log(step, figures)
            except Exception as error:  # of three libraries and their networks; a training goes on
                del self._trackers[name]
                _say_left_out(name, error)

    def finish(self) -> None:
        """Let all of them write what is left."""
        while self._trackers:
            name, tracker = self._trackers.popitem()
            try:
                tracker.finish()
            except Exception as error:  # as above; the others have to be finished too
                _say_left_out(name, error)


@contextmanager
def track(
    names: Sequence[str],
    run: RunFolder,
    *,
    project: str | None,
    hyperparameters: dict[str, Any],
    done: int,
    records: Sequence[Record],
    told: Sequence[Record],
) -> Iterator[Tracking]:
    """Open trackers for a run, in the very runs that they had for it before, if they had.

    A tracker that does not know the run yet is told what is in its log.

    Args:
        names: Of `TRACKERS`, checked.
        run: Which this process alone writes to.
        project: To file it under.
        hyperparameters: The settings, as plain values; what made the run is added.
        done: Updates that the run has done.
        records: Its log so far.
        told: Lines that an earlier session had logged and that are no longer in it.

    Raises:
        UserError: If one of them cannot begin. A run that was only just begun is deleted then.
    """
    known = read_identities(run.path)
    told_of = {**hyperparameters, "made_by": read_made_by(run.path)}
    identities = {name: known.get(name) or uuid.uuid4().hex[:12] for name in names}
    trackers: dict[str, Tracker] = {}
    tracking = Tracking(trackers, told)
    try:
        for name in names:
            so_far = done if name in known else None
            session = Tracked(run.path, identities[name], project, told_of, so_far)
            try:
                trackers[name] = TRACKERS[name](session)
            except Exception as error:
                tracking.finish()
                if run.is_new:
                    run.take_back()
                raise UserError(
                    f"track={name} cannot begin: {type(error).__name__}: {error}; see to that, or "
                    f"train without --track {name}"
                ) from error
        if identities.keys() - known.keys():
            write_json(run.path / TRACKED, known | identities)
        late = trackers.keys() - known.keys()
        for record in records if late else ():
            tracking.log(record["step"], record, only=late)
        yield tracking
    finally:
        tracking.finish()


def read_identities(run: Path) -> dict[str, str]:
    """By which identity each tracker knows a run; empty if none ever followed it."""
    if not (run / TRACKED).exists():
        return {}
    found = read_json(run / TRACKED, fix=DAMAGED, limit=MAX_JSON_BYTES)
    for name, identity in found.items():
        if not (isinstance(identity, str) and identity.isalnum() and len(identity) <= 64):
            raise UserError(
                f"{run / TRACKED}: {name}={identity!r} is no identity; delete the file, and the "
                "trackers begin anew"
            )
    return found


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """One number per name, as trackers want them: a curve's points are eval_returns/01, /02, ..."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if name == "step":
            continue
        if isinstance(value, list):
            width = len(str(len(value)))
            flat |= {f"{name}/{i:0{width}}": point for i, point in enumerate(value, start=1)}
        else:
            flat[name] = value
    return flat


def _say_left_out(name: str, error: Exception) -> None:
    _logger.warning(
        f"track={name} failed and is told no more; training goes on, and metrics.jsonl has every "
        f"line: {type(error).__name__}: {printable(str(error))}"
    )


def _line(step: int, metrics: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    return step, frozenset(metrics.keys() - {"step"})
