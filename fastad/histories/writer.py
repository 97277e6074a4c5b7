"""Writing learning histories so that a kill at any moment loses only the uncommitted tail."""

import dataclasses
import errno
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fastad.base.errors import UserError
from fastad.base.files import (
    digest,
    file_digest,
    read_json,
    replace_durably,
    sync_folder,
    temporary,
    write_json,
)
from fastad.base.locks import WORKER_PATIENCE, folder_lock
from fastad.base.possession import mark
from fastad.histories.block import BlockChecker
from fastad.histories.bounds import find_bounds
from fastad.histories.columns import BOUNDS, Column, columns, shard_files, stem
from fastad.histories.fields import REBUILD
from fastad.histories.meta import ShardMeta, rerun, shard_path, shard_range
from fastad.histories.npy import create_array, load_array
from fastad.histories.schema import INFO_FILE, META_FILE, TASKS_FILE, DatasetInfo

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

if TYPE_CHECKING:
    from fastad.acting.interact import Transition


def create_dataset(path: str | Path, info: DatasetInfo, tasks: np.ndarray) -> None:
    """Begin a dataset, or confirm that the one at `path` is the same.

    The marker is written first, then tasks.npy, then dataset.json, all atomically: a folder with a
    dataset.json is a dataset. Beginning the same dataset again changes nothing, so a rerun resumes.

    Args:
        path: Created if missing.
        info: Stored as dataset.json.
        tasks: (num_tasks, K): train, validation, test.

    Raises:
        UserError: If `tasks` does not fit `info`, or `path` holds another dataset.
    """
    path, tasks = Path(path), np.ascontiguousarray(tasks)
    if tasks.ndim != 2 or len(tasks) != info.num_tasks:
        raise UserError(
            f"tasks has shape {tasks.shape}; num_train={info.num_train}, "
            f"num_validation={info.num_validation} and num_test={info.num_test} need "
            f"({info.num_tasks}, K)"
        )
    columns(info)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; name a folder for the dataset")
    path.mkdir(parents=True, exist_ok=True)
    if (path / INFO_FILE).exists():
        _check_same(path, info, tasks)
        return
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, tasks, allow_pickle=False)
    mark(path, "dataset")
    replace_durably(path / TASKS_FILE, buffer.getvalue())
    described = dataclasses.replace(info, tasks_digest=digest(buffer.getvalue()))
    write_json(path / INFO_FILE, described.to_json(), seal=True)


def shard_is_complete(path: str | Path, info: DatasetInfo, index: int) -> bool:
    """Whether every step of shard `index` is committed and its files are there."""
    shard = shard_path(path, index)
    meta = ShardMeta.load(shard)
    if meta is None or meta.committed_steps != info.num_steps:
        return False
    return all((shard / f"{stem(info, name)}.npy").is_file() for name in shard_files(info))


class ShardWriter:
    """Appends blocks of steps to every history of one shard; a context manager.

    A shard has one writer at a time, by a lock on its folder. Its data is flushed before
    meta.json is replaced, so meta.json never claims a step that is not on disk.

    A shard that is begun again starts from step 0. Its meta.json is first set to zero committed
    steps under a new attempt number, and only then are the columns replaced, by new files. So a
    reader that has the old files open keeps reading the old, valid steps; a reader that opens
    meanwhile finds the attempt unchanged (old files, old meta.json) or changed (and looks again).

    Args:
        path: The dataset, made by `create_dataset`.
        info: Of the dataset.
        index: Of the shard.
        task_ids: Rows of tasks.npy, one per history of the shard.
        learner_ids: Which learner of its task each history is of, one per history.
        lengths: Steps of each history, of which those that are written behind repeat the last; all
            that the dataset says if left out.

    Raises:
        UserError: If `task_ids` or `learner_ids` do not fit, another process writes the shard, or
            the disk cannot hold it.
    """

    def __init__(
        self,
        path: str | Path,
        info: DatasetInfo,
        index: int,
        *,
        task_ids: Sequence[int] | np.ndarray,
        learner_ids: Sequence[int] | np.ndarray,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.info = info
        self.index, self.shard = index, shard_path(path, index)
        self.num_histories = len(shard_range(info, index))
        self.committed_steps = 0
        self._task_ids = [int(task) for task in task_ids]
        self._learner_ids = [int(number) for number in learner_ids]
        is_ragged = lengths is not None and min(lengths) < info.num_steps
        self._lengths = list(lengths or []) if is_ragged else []
        self._columns = columns(info)
        self._checker = BlockChecker(info)
        self._maps: dict[str, np.memmap[Any, Any]] = {}
        self._lock = ExitStack()
        self._attempt = 1
        self._check_histories(index)

    def __enter__(self) -> Self:
        self.shard.mkdir(parents=True, exist_ok=True)
        sync_folder(self.shard.parent)
        # The workers of a killed collection need a moment to notice.
        self._lock.enter_context(folder_lock(self.shard, patience=WORKER_PATIENCE))
        try:
            self._begin()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def append(self, block: "Transition | Mapping[str, Any]") -> None:
        """Write a block behind the committed steps and commit it.

        Args:
            block: A `Transition`, or arrays by the names of the columns, each (N, steps, ...),
                `N` being the histories of the shard. What the dataset has no column for is
                ignored.

        Raises:
            UserError: If shapes do not fit or values leave their space; nothing is written. Or if
                somebody else has begun the shard anew.
        """
        assert self._maps, "append is called inside the writer's `with`"
        fields = self._checker.arrays(block, self.num_histories)
        num_steps = fields[0].shape[1]
        first, stop = self.committed_steps, self.committed_steps + num_steps
        if stop > self.info.num_steps:
            raise UserError(
                f"block of {num_steps} steps at step {first} exceeds "
                f"num_steps={self.info.num_steps} of {self.shard}"
            )
        for name, values in zip(self._columns, fields, strict=True):
            self._maps[name][:, first:stop] = values
        for memmap in self._maps.values():
            memmap.flush()
        self._check_attempt()
        digests = {}
        if stop == self.info.num_steps:
            self._write_bounds()
            digests = self._digests()
            self._check_attempt()
        self.committed_steps = stop
        self._commit(digests)

    def _begin(self) -> None:
        """Start the shard anew, under a new attempt number."""
        earlier = ShardMeta.load(self.shard)
        self._attempt = 1 if earlier is None else earlier.attempt + 1
        self.committed_steps = 0
        self._commit({})
        for name, column in self._columns.items():
            self._maps[name] = self._create(name, column)

    def _check_attempt(self) -> None:
        """Make way for whoever has begun the shard anew: a lock may break, on a network."""
        latest = ShardMeta.load(self.shard)
        if latest is None or latest.attempt != self._attempt:
            raise UserError(
                f"{self.shard} was begun anew by another process, or deleted, while this one wrote "
                "it; leave it to that one"
            )

    def _close(self) -> None:
        self._maps.clear()
        self._lock.close()

    def _check_histories(self, index: int) -> None:
        given = (("task_ids", self._task_ids), ("learner_ids", self._learner_ids))
        for name, values in given:
            if len(values) != self.num_histories:
                raise UserError(
                    f"{name} has {len(values)} entries; shard {index} holds "
                    f"{self.num_histories} histories"
                )
        wrong = [task for task in self._task_ids if not 0 <= task < self.info.num_tasks]
        if wrong:
            raise UserError(f"task_ids holds {wrong[0]}; tasks are 0 to {self.info.num_tasks - 1}")

    def _commit(self, digests: dict[str, str]) -> None:
        meta = ShardMeta(
            self._task_ids, self._learner_ids, self.committed_steps, self._attempt, digests,
            self._lengths,
            self.index,
        )  # fmt: skip
        content = meta.to_json(self.info.schema_version)
        write_json(self.shard / META_FILE, content, seal=True)

    def _write_bounds(self) -> None:
        """Where the episodes of a shard whose steps are all there begin and end."""
        if not self.info.has_bounds:
            return
        ended = self._maps["terminated"] | self._maps["truncated"]
        content = io.BytesIO()
        lengths = self._lengths or [self.info.num_steps] * len(ended)
        rows = zip(ended, lengths, strict=True)
        bounds = np.concatenate([find_bounds(row[:length]) for row, length in rows])
        np.lib.format.write_array(content, bounds, allow_pickle=False)
        replace_durably(self._file(BOUNDS), content.getvalue())

    def _file(self, name: str) -> Path:
        return self.shard / f"{stem(self.info, name)}.npy"

    def _digests(self) -> dict[str, str]:
        """Of every file as it is now, by its name."""
        files = [self._file(name) for name in shard_files(self.info)]
        return {file.stem: file_digest(file, fix=rerun(self.shard)) for file in files}

    def _create(self, name: str, column: Column) -> "np.memmap[Any, Any]":
        """A new file of full size under a temporary name, then renamed over the old one."""
        file = self._file(name)
        sibling = temporary(file)
        shape = (self.num_histories, self.info.num_steps, *column.shape)
        try:
            memmap = create_array(sibling, column.dtype, shape)
        except OSError as error:
            sibling.unlink(missing_ok=True)
            if error.errno not in NO_SPACE:
                raise
            num_bytes = column.dtype.itemsize * prod(shape)
            raise UserError(
                f"{file}: cannot reserve {num_bytes:,} bytes ({error.strerror}); free disk "
                "space, or lower num_histories or num_steps"
            ) from error
        sibling.replace(file)
        return memmap


def _check_same(path: Path, info: DatasetInfo, tasks: np.ndarray) -> None:
    """Versions may differ: finishing a dataset after an upgrade is no new dataset."""
    file = path / INFO_FILE
    stored = DatasetInfo.from_json(read_json(file, fix=REBUILD), file=file).settings()
    for name, value in info.settings().items():
        if stored[name] != value:
            raise UserError(
                f"{file}: field {name!r} is {stored[name]!r}, not {value!r}; choose another "
                "folder, or delete this one to replace the dataset"
            )
    if not np.array_equal(load_array(path / TASKS_FILE, fix=REBUILD), tasks):
        raise UserError(f"{path / TASKS_FILE}: holds other tasks; choose another folder")
