"""Reading learning histories: memory-mapped, validated when opened."""

import json
import shlex
from pathlib import Path

import numpy as np

from fastad.base.errors import UserError
from fastad.base.files import digest, file_digest, read_json
from fastad.histories.bounds import find_bounds
from fastad.histories.fields import REBUILD
from fastad.histories.histories import Histories
from fastad.histories.meta import shard_path
from fastad.histories.npy import load_array
from fastad.histories.schema import INFO_FILE, TASKS_FILE, DatasetInfo
from fastad.histories.shards import open_shard
from fastad.histories.validate import check_sample


class HistoryDataset(Histories):
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
        learner_ids: Which learner of its task each history is of.
        history_ids: (num_histories,) int64, the numbers in the complete dataset.
        lengths: (num_histories,) int64, committed steps; histories may differ.
        num_shards_complete: Shards of which every step is committed.

    Raises:
        UserError: If anything is missing, damaged or too new, or nothing is committed yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info, self.tasks = load_description(self.path)
        opened = (open_shard(self.path, self.info, i) for i in range(self.info.num_shards))
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
        whole = [
            s.meta.lengths or [self.info.num_steps] * n
            for s, n in zip(self.shards, counts, strict=True)
        ]
        self.lengths = np.minimum(committed[self._shard_of], np.concatenate(whole))
        self.task_ids = np.concatenate([np.array(s.meta.task_ids) for s in self.shards])
        self.learner_ids = [number for shard in self.shards for number in shard.meta.learner_ids]
        self.num_shards_complete = int((committed == self.info.num_steps).sum())
        self._bounds: dict[int, np.ndarray] = {}
        self._views: dict[tuple[int, str, int], np.ndarray] = {}
        check_sample(self)

    @property
    def unfinished(self) -> list[str]:
        """Every shard of which not all steps are committed, as "shard-00001: 20 of 180 steps"."""
        committed = {shard.path: shard.meta.committed_steps for shard in self.shards}
        paths = (shard_path(self.path, index) for index in range(self.info.num_shards))
        done = {path.name: committed.get(path, 0) for path in paths}
        total = self.info.num_steps
        return [f"{name}: {n:,} of {total:,} steps" for name, n in done.items() if n < total]

    def fingerprint(self) -> str:
        """Short, and the same for the same settings, tasks, and contents of complete shards."""
        shards = [vars(shard.meta) for shard in self.shards]
        content = json.dumps([self.info.settings(), shards], sort_keys=True, default=str)
        return digest(content.encode() + self.tasks.tobytes())[:12]

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
        """See `Histories.gather`."""
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

        The last episode may be cut short by the end of the committed steps. Where episodes vary
        in length, complete shards store their bounds; otherwise they are found by one scan of the
        history, whose result is kept.

        Returns:
            (E + 1,) int64, from 0 to the history's length.
        """
        length = int(self.lengths[history])
        if self.info.fixed_length:
            return np.append(np.arange(0, length, self.info.episode_length), length)
        stored = self.shards[self._shard_of[history]].bounds
        if stored is not None:
            return stored[self._row_of[history]]
        if history not in self._bounds:
            steps = self.read(history, 0, length)
            self._bounds[history] = find_bounds(steps["terminated"] | steps["truncated"])
        return self._bounds[history]


def load_info(path: str | Path) -> DatasetInfo:
    """Read the dataset.json of the dataset at `path`.

    Raises:
        UserError: If there is none, or it is damaged or from a newer version.
    """
    path = Path(path)
    file = path / INFO_FILE
    if not path.exists():
        raise UserError(
            f"dataset {path} does not exist; make one with: fastad collect {shlex.quote(str(path))}"
        )
    if not path.is_dir():
        raise UserError(f"dataset {path} is a file; name the folder that holds {INFO_FILE}")
    try:
        description = read_json(file, fix=REBUILD)
    except FileNotFoundError as error:
        raise UserError(
            f"dataset {path} holds no {INFO_FILE}; name the folder that `fastad collect` wrote"
        ) from error
    return DatasetInfo.from_json(description, file=file)


def load_description(path: str | Path) -> tuple[DatasetInfo, np.ndarray]:
    """Read what a dataset is and its tasks, without its histories; a run folder keeps a copy.

    Returns:
        The info and the tasks, (num_tasks, K): train, validation, test.

    Raises:
        UserError: If dataset.json or tasks.npy is missing, damaged or does not fit the other.
    """
    info, file = load_info(path), Path(path) / TASKS_FILE
    try:
        tasks = load_array(file, fix=REBUILD)
        is_intact = info.tasks_digest in ("", file_digest(file, fix=REBUILD))
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; {REBUILD}") from error
    if tasks.ndim != 2 or len(tasks) != info.num_tasks:
        raise UserError(
            f"{file}: shape {tasks.shape}, not ({info.num_tasks}, K) as {INFO_FILE} says; {REBUILD}"
        )
    if not is_intact:
        raise UserError(f"{file}: damaged, not what the digest in {INFO_FILE} says; {REBUILD}")
    return info, tasks
