"""A dataset's description as one text, carried by other formats so that nothing is lost."""

import base64
import binascii
import dataclasses
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastad.base.errors import UserError
from fastad.base.files import digest
from fastad.histories.fields import SCHEMA_VERSION
from fastad.histories.histories import Histories
from fastad.histories.npy import parse_array
from fastad.histories.own_writer import HistoryWriter
from fastad.histories.schema import DatasetInfo

KEY = "fastad"  # what other formats' metadata call the description
FORMAT = 1
AGAIN = "convert the dataset again"
# Steps that a converted dataset may have room for, and how many for each that it holds.
FREE_STEPS, MOST_PER_STEP = 2**16, 2**12


def describe(dataset: Histories) -> str:
    """What `restored` makes the same dataset of, but its histories; JSON."""
    info = dataclasses.replace(dataset.info, schema_version=SCHEMA_VERSION)
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(dataset.tasks), allow_pickle=False)
    tasks = base64.b64encode(content.getvalue()).decode()
    described = {
        "format": FORMAT, "info": info.to_json(), "tasks": tasks,
        "steps": int(dataset.lengths.sum()),
    }  # fmt: skip
    return json.dumps(described, default=_plain)


def check_whole(dataset: Histories) -> None:
    """Refuse to convert what is still being collected, or what would not be read again.

    Raises:
        UserError: If a shard is not complete, or there is so much more room than steps that nobody
            would believe it when it is read.
    """
    if not dataset.complete:
        raise UserError(
            f"source={dataset.path} is not complete ({'; '.join(dataset.unfinished[:3])}); finish "
            "it with --resume first"
        )
    found, room = int(dataset.lengths.sum()), dataset.info.num_histories * dataset.info.num_steps
    if room > _most_room(found):
        raise UserError(
            f"source={dataset.path} has {found:,} steps and room for {room:,}, too much to be "
            "converted; make it again with num_steps of its longest history"
        )


class Described(NamedTuple):
    """A dataset without its histories.

    Attributes:
        info: Of the dataset.
        tasks: (N, K), as there.
        steps: Of all its histories together; None where an earlier fastad did not tell.
        is_from_file: Whether what it says might be anybody's word.
    """

    info: DatasetInfo
    tasks: np.ndarray
    steps: int | None
    is_from_file: bool = True

    def check_steps(self, found: int, where: str) -> None:
        """Refuse histories that are not whole, or that room is made for beyond all measure.

        Raises:
            UserError: If so; `where` begins it.
        """
        room = self.info.num_histories * self.info.num_steps
        expected = f"{self.info.num_histories:,} histories of at most {self.info.num_steps:,} steps"
        if self.steps is not None:
            expected = f"{self.steps:,}"
        if not self.info.num_histories <= found <= room or self.steps not in (None, found):
            raise UserError(
                f"{where} has {found:,} steps, and was written with {expected}; some were left out "
                f"or added: {AGAIN}"
            )
        if self.is_from_file and room > _most_room(found):
            raise UserError(
                f"{where} has {found:,} steps, and its description makes room for {room:,}; it is "
                f"damaged: {AGAIN}"
            )


def restored(text: object, where: str) -> Described:
    """What `describe` told of a dataset.

    Args:
        text: That `describe` gave, from anywhere.
        where: Named in errors.

    Raises:
        UserError: If it is damaged, or of a newer fastad.
    """
    try:
        values: Any = json.loads(text if isinstance(text, str | bytes) else "")
        if values["format"] != FORMAT:
            raise UserError(
                f"{where}: its description is of format {values['format']!r}, and this fastad "
                f"reads {FORMAT}; upgrade fastad"
            )
        content = base64.b64decode(values["tasks"], validate=True)
        described, steps = dict(values["info"]), values.get("steps")
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{where}: its fastad description is damaged ({type(error).__name__}); {AGAIN}"
        ) from error
    info = DatasetInfo.from_json(described, file=where)
    tasks = parse_array(content, f"{where}, its tasks", fix=AGAIN)
    is_whole = tasks.ndim == 2 and len(tasks) == info.num_tasks
    if not is_whole or info.tasks_digest not in ("", digest(content)):
        raise UserError(f"{where}: the tasks in it are damaged; {AGAIN}")
    return Described(info, tasks, None if steps is None else _count(steps, where))


def writer_of(
    path: Path, info: DatasetInfo, tasks: np.ndarray, *, overwrite: bool
) -> HistoryWriter:
    """Takes the histories of a dataset that was described, and writes it as it was.

    What the description names is not trusted because of it.
    """
    return HistoryWriter(path, info, tasks, overwrite=overwrite, is_ours=False)


def _most_room(steps: int) -> int:
    """For so many steps: a dataset's histories have as much room each as the longest needs."""
    return FREE_STEPS + MOST_PER_STEP * steps


def _count(steps: object, where: str) -> int:
    if type(steps) is not int or not 0 <= steps < 2**63:
        raise UserError(f"{where}: the number of steps in it is damaged; {AGAIN}")
    return steps


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
