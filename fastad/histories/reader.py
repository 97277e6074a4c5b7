"""Reading learning histories: memory-mapped, validated when opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastad.base.files import read_json
from fastad.errors import UserError
from fastad.histories.schema import (
    INFO_FILE,
    META_FILE,
    REBUILD,
    TASKS_FILE,
    DatasetInfo,
    ShardMeta,
    columns,
    rerun,
    shard_path,
    shard_range,
)
from fastad.histories.validate import check_sample, spread

MAX_REWARDS = 2**26  # read for one curve of returns: 256 MiB


class ReturnCurve(NamedTuple):
    """The source's return per episode."""

    mean: np.ndarray  # (E,) float64, over histories
    num_histories: int  # that were averaged


class Shard(NamedTuple):
    """One shard as it was when the dataset was opened."""

    path: Path
    meta: ShardMeta
    first_history: int  # in the numbering of the complete dataset
    columns: dict[str, np.ndarray]  # (histories, steps, ...), read-only maps


class HistoryDataset:
    """A dataset of learning histories, opened without reading it.

    Histories are numbered from 0 over the shards that hold committed steps. A dataset that is
    still being collected may be opened: it shows what was committed at that moment, and stays
    so. Shapes, dtypes and file sizes are checked in full; values on a bounded sample, so that
    opening takes no longer for a larger dataset.

    Args:
        path: The folder that holds dataset.json.

    Attributes:
        info: What the dataset is.
        tasks: (num_tasks, K), train tasks, then validation, then test tasks.
        task_ids: (num_histories,) int64, rows of `tasks`.
        seeds: Of the learners, one per history.
        history_ids: (num_histories,) int64, the numbers in the complete dataset.
        lengths: (num_histories,) int64, committed steps.
        num_shards_complete: Shards of which every step is committed.

    Raises:
        UserError: If anything is missing, damaged or too new, or nothing is committed yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info, self.tasks = load_description(self.path)
        opened = (self._open_shard(index) for index in range(self.info.num_shards))
        self.shards = [shard for shard in opened if shard is not None]
        if not self.shards:
            raise UserError(
                f"{self.path}: no step is committed yet; run `fastad collect` again to resume it, "
                "or wait if it is running"
            )
        counts = [len(shard.meta.task_ids) for shard in self.shards]
        self._shard_of = np.repeat(np.arange(len(counts)), counts)
        self._row_of = np.concatenate([np.arange(count) for count in counts])
        first = np.array([shard.first_history for shard in self.shards])
        committed = np.array([shard.meta.committed_steps for shard in self.shards])
        self.history_ids = first[self._shard_of] + self._row_of
        self.lengths = committed[self._shard_of]
        self.task_ids = np.concatenate([np.array(s.meta.task_ids) for s in self.shards])
        self.seeds = [seed for shard in self.shards for seed in shard.meta.seeds]
        self.num_shards_complete = int((committed == self.info.num_steps).sum())
        self._bounds: dict[int, np.ndarray] = {}
        self._views: dict[tuple[int, str, int], np.ndarray] = {}
        check_sample(self)

    @property
    def num_histories(self) -> int:
        """Histories that can be read; fewer than `info.num_histories` while collecting."""
        return len(self.task_ids)

    @property
    def num_steps(self) -> int:
        """Committed steps of the shortest history."""
        return int(self.lengths.min())

    @property
    def complete(self) -> bool:
        """Whether every step of every history is committed."""
        return self.num_shards_complete == self.info.num_shards

    @property
    def train_tasks(self) -> np.ndarray:
        """(num_train, K)."""
        return self.tasks[self.info.task_rows("train")]

    @property
    def validation_tasks(self) -> np.ndarray:
        """(num_validation, K)."""
        return self.tasks[self.info.task_rows("validation")]

    @property
    def test_tasks(self) -> np.ndarray:
        """(num_test, K)."""
        return self.tasks[self.info.task_rows("test")]

    @property
    def train_histories(self) -> np.ndarray:
        """Numbers of the histories of train tasks, int64."""
        return np.flatnonzero(self.task_ids < self.info.num_train)

    def locate(self, history: int) -> tuple[Path, int]:
        """The shard folder that holds a history, and the history's row in it."""
        return self.shards[self._shard_of[history]].path, int(self._row_of[history])

    def read(self, history: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Steps [start, stop) of one history.

        Returns:
            Every column as a read-only view, (stop - start, ...); no data moves until it is used.

        Raises:
            IndexError: If the history or the steps do not exist.
        """
        if not 0 <= history < self.num_histories:
            raise IndexError(f"history={history} must lie in [0, {self.num_histories})")
        if not 0 <= start <= stop <= self.lengths[history]:
            raise IndexError(
                f"steps [{start}, {stop}) leave history {history} of {self.lengths[history]} steps"
            )
        row = self._row_of[history]
        shard = self.shards[self._shard_of[history]]
        return {name: values[row, start:stop] for name, values in shard.columns.items()}

    def gather(self, histories: np.ndarray, steps: np.ndarray, into: dict[str, np.ndarray]) -> None:
        """Copy steps of many histories at once: many times quicker than a `read` for each.

        Args:
            histories: (B,) int64.
            steps: (B, T) int64, which steps of each history, ascending.
            into: Arrays (B, T, ...) to fill, by column; values are cast to their dtypes.

        Raises:
            IndexError: If a history or a step does not exist.
        """
        first, last, num_steps = steps[:, 0], steps[:, -1], steps.shape[1]
        if (histories < 0).any() or (histories >= self.num_histories).any():
            raise IndexError(f"histories must lie in [0, {self.num_histories})")
        if (first < 0).any() or (last >= self.lengths[histories]).any():
            raise IndexError("steps leave their histories")
        are_consecutive = (last - first < num_steps).all()
        shards = self._shard_of[histories]
        chosen = np.unique(shards) if len(self.shards) > 1 else [0]
        for index in chosen:
            here = np.flatnonzero(shards == index) if len(chosen) > 1 else slice(None)
            row = self._row_of[histories[here]]
            for name, array in into.items():
                if are_consecutive:
                    array[here] = self._runs(index, name, num_steps)[row, first[here]]
                else:
                    array[here] = self.shards[index].columns[name][row[:, None], steps[here]]

    def _runs(self, shard: int, name: str, num_steps: int) -> np.ndarray:
        """Every run of so many consecutive steps of a column, as a view (N, S - T + 1, T, ...)."""
        key = shard, name, num_steps
        if key not in self._views:
            column = self.shards[shard].columns[name]
            # Runs overlap. NumPy copies each in one piece: 30 times as fast as every step alone.
            runs = np.lib.stride_tricks.sliding_window_view(column, num_steps, axis=1)
            self._views[key] = np.moveaxis(runs, -1, 2)
        return self._views[key]

    def episode_bounds(self, history: int) -> np.ndarray:
        """Where episodes begin and end: episode `e` is steps [bounds[e], bounds[e + 1]).

        The last episode may be cut short by the end of the committed steps. Episodes of variable
        length are found by one scan of the history, whose result is kept.

        Returns:
            (E + 1,) int64, from 0 to the history's length.
        """
        length = int(self.lengths[history])
        if self.info.fixed_length:
            return np.append(np.arange(0, length, self.info.episode_length), length)
        if history not in self._bounds:
            steps = self.read(history, 0, length)
            ends = np.flatnonzero(steps["terminations"] | steps["truncations"]) + 1
            if len(ends) == 0 or ends[-1] != length:
                ends = np.append(ends, length)
            self._bounds[history] = np.concatenate([[0], ends])
        return self._bounds[history]

    def num_episodes(self, history: int) -> int:
        """Episodes of a history that are complete."""
        length = int(self.lengths[history])
        if self.info.fixed_length:
            return length // self.info.episode_length
        last = self.read(history, length - 1, length)
        is_cut = not (last["terminations"][0] or last["truncations"][0])
        return len(self.episode_bounds(history)) - 1 - is_cut

    def returns(
        self, histories: Sequence[int] | np.ndarray | None = None, *, max_histories: int = 512
    ) -> ReturnCurve:
        """The source's mean return per episode.

        Args:
            histories: Which to average; all by default.
            max_histories: Of more (of very long ones, fewer) an evenly spaced sample is averaged.

        Returns:
            As many episodes as the shortest averaged history completed, so that every point is a
            mean over the same histories.
        """
        chosen = np.arange(self.num_histories) if histories is None else np.asarray(histories)
        limit = min(max_histories, max(1, MAX_REWARDS // self.info.num_steps))
        chosen = chosen[spread(len(chosen), limit)]
        num_episodes = min((self.num_episodes(h) for h in chosen), default=0)
        if num_episodes == 0:
            return ReturnCurve(np.zeros(0), len(chosen))
        total = np.zeros(num_episodes)
        for history in chosen:
            bounds = self.episode_bounds(history)
            rewards = self.read(history, 0, bounds[num_episodes])["rewards"]
            total += np.add.reduceat(rewards, bounds[:num_episodes], dtype=np.float64)
        return ReturnCurve(total / len(chosen), len(chosen))

    def _open_shard(self, index: int) -> Shard | None:
        """Open a shard; None if nothing of it is committed."""
        path, histories = shard_path(self.path, index), shard_range(self.info, index)
        meta = ShardMeta.load(path)
        while meta is not None and meta.committed_steps > 0:
            _check_meta(path, meta, self.info, len(histories))
            maps = {}
            for name, column in columns(self.info).items():
                shape = (len(histories), self.info.num_steps, *column.shape)
                maps[name] = _open_column(path, name, column.dtype, shape)
            # A writer that began the shard again may have replaced columns under our hands, but
            # only after it replaced meta.json: an unchanged attempt vouches for these files.
            latest = ShardMeta.load(path)
            if latest is not None and latest.attempt == meta.attempt:
                return Shard(path, meta, histories.start, maps)
            meta = latest
        return None


def load_info(path: str | Path) -> DatasetInfo:
    """Read the dataset.json of the dataset at `path`.

    Raises:
        UserError: If there is none, or it is damaged or from a newer version.
    """
    path = Path(path)
    file = path / INFO_FILE
    if not path.exists():
        raise UserError(f"dataset {path} does not exist; `fastad collect` makes one")
    if not path.is_dir():
        raise UserError(f"dataset {path} is a file; name the folder that holds {INFO_FILE}")
    if not file.is_file():
        raise UserError(
            f"dataset {path} holds no {INFO_FILE}; name the folder that `fastad collect` wrote"
        )
    return DatasetInfo.from_json(read_json(file, fix=REBUILD), file=file)


def load_description(path: str | Path) -> tuple[DatasetInfo, np.ndarray]:
    """Read what a dataset is and its tasks, without its histories; a run folder keeps a copy.

    Returns:
        The info and the tasks, (num_tasks, K): train, validation, test.

    Raises:
        UserError: If dataset.json or tasks.npy is missing, damaged or does not fit the other.
    """
    info, file = load_info(path), Path(path) / TASKS_FILE
    if not file.is_file():
        raise UserError(f"{file}: missing; {REBUILD}")
    try:
        tasks = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{file}: not a readable .npy file ({error}); {REBUILD}") from error
    if tasks.ndim != 2 or len(tasks) != info.num_tasks:
        raise UserError(
            f"{file}: shape {tasks.shape}, not ({info.num_tasks}, K) as {INFO_FILE} says; {REBUILD}"
        )
    return info, tasks


def _check_meta(shard: Path, meta: ShardMeta, info: DatasetInfo, num_histories: int) -> None:
    file = shard / META_FILE
    for name in ("task_ids", "seeds"):
        if len(getattr(meta, name)) != num_histories:
            raise UserError(
                f"{file}: field {name!r} has {len(getattr(meta, name))} entries, but the shard "
                f"holds {num_histories} histories; {rerun(shard)}"
            )
    wrong = [task for task in meta.task_ids if not 0 <= task < info.num_tasks]
    if wrong:
        raise UserError(
            f"{file}: field 'task_ids' holds {wrong[0]}, but tasks are 0 to "
            f"{info.num_tasks - 1}; {rerun(shard)}"
        )
    if meta.committed_steps > info.num_steps:
        raise UserError(
            f"{file}: field 'committed_steps' is {meta.committed_steps}, but histories have "
            f"{info.num_steps} steps; {rerun(shard)}"
        )


def _open_column(
    shard: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> np.ndarray:
    """Map one column read-only, once its header and its size are as they must be."""
    file = shard / f"{name}.npy"
    if not file.is_file():
        raise UserError(f"{file}: missing; {rerun(shard)}")
    npy = np.lib.format
    try:
        with file.open("rb") as stream:
            is_old = npy.read_magic(stream) == (1, 0)
            read_header = npy.read_array_header_1_0 if is_old else npy.read_array_header_2_0
            stored_shape, is_fortran, stored_dtype = read_header(stream)
            offset = stream.tell()
    except ValueError as error:
        raise UserError(f"{file}: not a readable .npy file ({error}); {rerun(shard)}") from error
    if stored_dtype != dtype:
        raise UserError(f"{file}: dtype is {stored_dtype}, not {dtype}; {rerun(shard)}")
    if stored_shape != shape or is_fortran:
        order = " in Fortran order" if is_fortran else ""
        raise UserError(f"{file}: shape is {stored_shape}{order}, not {shape}; {rerun(shard)}")
    needed, size = offset + dtype.itemsize * int(np.prod(shape)), file.stat().st_size
    if size < needed:
        raise UserError(f"{file}: truncated to {size} of {needed} bytes; {rerun(shard)}")
    # Plain arrays are sliced faster than np.memmap, and keep the map alive just the same.
    return np.asarray(np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape))
