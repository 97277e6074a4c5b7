"""Writing histories one after another, each in one piece or in several, checked as they come."""

import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from fastad.base.errors import UserError, unknown
from fastad.histories.block import BlockChecker
from fastad.histories.columns import columns
from fastad.histories.folder import begin_dataset, discard_dataset
from fastad.histories.meta import ShardMeta, shard_path, shard_range
from fastad.histories.schema import DatasetInfo
from fastad.histories.writer import ShardWriter, shard_is_complete
from fastad.spaces import is_packed, pack

SHARD_BYTES = 2**26  # of memory, while a shard is filled; a larger one is filled on disk


class HistoryWriter:
    """Takes histories one after another; a context manager, see `fastad.histories.create`.

    A block that ends with an error, or before all histories are there, leaves no dataset behind;
    one that resumes leaves the shards that are full, to be resumed again.

    Args:
        path: The dataset's folder.
        info: What the dataset shall be.
        tasks: (num_tasks, K).
        resume: Go on with the dataset that is there, if there is one.
        overwrite: Delete the dataset that is there.
        is_ours: Whether the user named what `info` names; see `begin_dataset`.
    """

    def __init__(
        self,
        path: Path,
        info: DatasetInfo,
        tasks: np.ndarray,
        *,
        resume: bool = False,
        overwrite: bool = False,
        is_ours: bool = True,
    ) -> None:
        self.path, self.info = path, info
        self.num_histories = 0  # that are complete: of those resumed, whose shards are full
        self._tasks, self._resume, self._overwrite = tasks, resume, overwrite
        self._is_ours = is_ours
        self._checker = BlockChecker(info)
        self._open = ExitStack()
        self._is_open = False
        self._learners = [0] * info.num_tasks  # complete histories of each task
        self._task: int | None = None  # of the history that has begun
        self._taken = self._age = 0  # steps of that history, and of its episode
        self._next_age = 0  # that the episode will have when what is checked has been taken
        self._shard_index = 0
        self._shard: dict[str, np.ndarray] = {}  # columns of the shard that is being filled
        # Task, learner and steps of its histories.
        self._ids: list[tuple[int, int, int]] = []

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self.info = opened.enter_context(
                begin_dataset(
                    self.path,
                    self.info,
                    torch.from_numpy(self._tasks),
                    resume=self._resume,
                    overwrite=self._overwrite,
                    is_ours=self._is_ours,
                )
            )
            self._find_histories()
            self._open = opened.pop_all()
        self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            missing = self.info.num_histories - self.num_histories
            if (error is not None or missing) and not self._resume:
                discard_dataset(self.path)
            if error is None and missing:
                left = "to be resumed" if self._resume else "without a dataset"
                raise UserError(
                    f"num_histories={self.info.num_histories}, and {self.num_histories} are "
                    f"complete; append the other {missing}, or create with "
                    f"num_histories={self.num_histories}; {self.path} is left {left}"
                )
        finally:
            self._is_open = False
            self._open.close()

    def append(
        self, *, task: int, last: bool = False, learner: int | None = None, **steps: Any
    ) -> None:
        """Append consecutive steps of one history: all of them, an episode, or any other part.

        A history is complete with its `num_steps`-th step, or with the `last` ones; the next steps
        begin another.

        Args:
            task: The history's, a row of `tasks`.
            last: Whether the history ends with these steps, however many it has.
            learner: Which of its task's learners the history is of; told with its last steps, and
                counted from 0 if left out.
            **steps: By the names of columns, arrays (n, ...) of n steps: observation, as seen
                before acting; action; reward; terminated and truncated, whether the step ended its
                episode; and the `policies`, each (n, A). Observations of a Dict or Tuple are a list
                of n, or packed as `HistoryDataset.read` gives them.

        Raises:
            UserError: If something does not fit, naming history, field, value and fix. Nothing has
                been taken then, and the next call may put it right.
        """
        assert self._is_open, "append is called inside the writer's `with`"
        fields = self._checked(task, steps)
        if not self._shard:
            self._shard = self._blank_shard()
        row, first = len(self._ids), self._taken
        self._taken += fields[0].shape[1]
        for column, values in zip(self._shard.values(), fields, strict=True):
            column[row, first : self._taken] = values[0]
        self._task, self._age = int(task), self._next_age
        if last or self._taken == self.info.num_steps:
            self._end_history(self._task, learner)

    def _find_histories(self) -> None:
        """Note those that are there, in shards one after another."""
        for index in range(self.info.num_shards):
            meta = ShardMeta.load(shard_path(self.path, index))
            if meta is None or not shard_is_complete(self.path, self.info, index):
                return
            for task in meta.task_ids:
                self._learners[task] += 1
            self.num_histories += len(meta.task_ids)
            self._shard_index = index + 1

    def _checked(self, task: int, steps: dict[str, Any]) -> list[np.ndarray]:
        """Steps as they are stored, (1, n, ...) by columns."""
        names = [*columns(self.info)]
        for name in steps:
            if name not in names:
                raise unknown("column", name, names)
        where = f"history {self.num_histories} from step {self._taken} on"
        try:
            self._check_task(task)
            given = {
                name: self._as_batch(name, values)
                for name, values in steps.items()
                if values is not None
            }
            fields = self._checker.arrays(given, 1)
            self._check_episodes(dict(zip(names, fields, strict=True)))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        return fields

    def _check_task(self, task: int) -> None:
        info = self.info
        if self.num_histories == info.num_histories:
            raise UserError(f"num_histories={info.num_histories} are complete; create for more")
        if isinstance(task, bool) or not isinstance(task, int | np.integer):
            raise UserError(f"task={task!r} is no row of the tasks; give a whole number")
        if not 0 <= task < info.num_tasks:
            raise UserError(f"task={task} is no row of the tasks, 0 to {info.num_tasks - 1}")
        if self._task not in (None, task):
            raise UserError(
                f"task={task}, and it has {self._taken} of num_steps={info.num_steps} steps of "
                f"task {self._task}; append the others first"
            )

    def _as_batch(self, name: str, values: Any) -> Any:
        if name == "observation" and is_packed(self.info.observation_space):
            if isinstance(values, np.ndarray) and values.dtype == np.uint8:
                return values[None]
            if not isinstance(values, Sequence):
                raise UserError(f"observation is {type(values).__name__}; give a list of steps")
            packed = [pack(self.info.observation_space, value) for value in values]
            return np.stack(packed)[None] if packed else np.zeros((1, 0), np.uint8)
        if not hasattr(values, "detach"):
            values = np.asarray(values)
        return values[None]

    def _check_episodes(self, fields: dict[str, np.ndarray]) -> None:
        """Refuse too many steps, and episodes that are too long or, where that counts, short."""
        info, ended = self.info, (fields["terminated"] | fields["truncated"])[0]
        if len(ended) == 0:
            raise UserError("there are no steps; append at least one")
        if self._taken + len(ended) > info.num_steps:
            raise UserError(
                f"{len(ended)} steps behind {self._taken} exceed num_steps={info.num_steps}; "
                f"append the first {info.num_steps - self._taken}"
            )
        ends = np.flatnonzero(ended)
        begins = np.concatenate(([-self._age], ends + 1))  # of episodes, the last may go on
        lengths = np.append(ends + 1, len(ended)) - begins
        wrong = lengths > info.episode_length
        rule = "no episode may last longer than"
        if info.fixed_length:
            wrong[:-1] |= lengths[:-1] != info.episode_length
            wrong[-1] |= lengths[-1] == info.episode_length
            rule = "every episode must end after"
        if wrong.any():
            index = int(wrong.argmax())
            begin = self._taken + int(begins[index])
            raise UserError(
                f"the episode that begins at step {begin} lasts {lengths[index]} steps"
                f"{'' if index < len(ends) else ' and goes on'}; {rule} "
                f"episode_length={info.episode_length} of them: mark its end in terminated or "
                "truncated, or create with another episode_length"
            )
        self._next_age = int(lengths[-1])

    def _end_history(self, task: int, learner: int | None) -> None:
        row, length = len(self._ids), self._taken
        for column in self._shard.values():
            column[row, length:] = column[row, length - 1]  # values that pass for a step's
        self._ids.append((task, self._learners[task] if learner is None else learner, length))
        self._learners[task] += 1
        self.num_histories += 1
        self._task, self._taken, self._age = None, 0, 0
        if len(self._ids) == len(shard_range(self.info, self._shard_index)):
            self._write_shard()

    def _blank_shard(self) -> dict[str, np.ndarray]:
        """Room for all histories of the next shard."""
        shape = len(shard_range(self.info, self._shard_index)), self.info.num_steps
        kinds = columns(self.info)
        num_bytes = sum(column.bytes_per_step for column in kinds.values()) * math.prod(shape)
        blank = np.zeros if num_bytes <= SHARD_BYTES else self._on_disk
        return {n: blank((*shape, *kind.shape), kind.dtype) for n, kind in kinds.items()}

    def _on_disk(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Zeros in a file without a name, which is gone with the array."""
        with tempfile.TemporaryFile(dir=self.path) as file:
            return np.memmap(file, dtype, "w+", shape=shape)

    def _write_shard(self) -> None:
        task_ids, learner_ids, lengths = zip(*self._ids, strict=True)
        with ShardWriter(
            self.path, self.info, self._shard_index, task_ids=task_ids, learner_ids=learner_ids,
            lengths=lengths,
        ) as writer:  # fmt: skip
            writer.append(self._shard)
        self._shard_index += 1
        self._shard, self._ids = {}, []
