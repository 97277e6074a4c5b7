"""What a set of learning histories offers to those who learn from it, wherever it is stored."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastad.histories.schema import DatasetInfo
from fastad.histories.validate import spread

if TYPE_CHECKING:
    import pandas

MAX_REWARDS = 2**26  # read for one curve of returns: 256 MiB


class ReturnCurve(NamedTuple):
    """The source's return per episode."""

    mean: np.ndarray  # (E,) float64, over histories
    num_histories: int  # that were averaged


class Histories(ABC):
    """Learning histories, numbered from 0.

    Attributes:
        path: Where they are.
        info: What they are.
        tasks: (num_tasks, K), train tasks, then validation, then test tasks.
        task_ids: (num_histories,) int64, rows of `tasks`.
        learner_ids: Which learner of its task each history is of.
        lengths: (num_histories,) int64, committed steps; histories may differ.
        num_shards_complete: Shards of which every step is committed.
    """

    path: Path
    info: DatasetInfo
    tasks: np.ndarray
    task_ids: np.ndarray
    learner_ids: Sequence[int]
    lengths: np.ndarray
    num_shards_complete: int

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
    @abstractmethod
    def unfinished(self) -> list[str]:
        """Every shard of which not all steps are committed, as "shard-00001: 20 of 180 steps"."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Short, and the same for the same settings, tasks, and contents of complete shards."""

    @abstractmethod
    def read(self, history: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Steps [start, stop) of one history.

        Returns:
            Every column, (stop - start, ...), read-only.

        Raises:
            IndexError: If the history or the steps do not exist.
        """

    @abstractmethod
    def gather(self, histories: np.ndarray, steps: np.ndarray, into: dict[str, np.ndarray]) -> None:
        """Copy steps of many histories at once: many times quicker than a `read` for each.

        Args:
            histories: (B,) int64.
            steps: (B, T) int64, which steps of each history, ascending.
            into: Arrays (B, T, ...) to fill, by column; values are cast to their dtypes.

        Raises:
            IndexError: If a history or a step does not exist.
        """

    @abstractmethod
    def episode_bounds(self, history: int) -> np.ndarray:
        """Where episodes begin and end: episode `e` is steps [bounds[e], bounds[e + 1]).

        The last episode may be cut short by the end of the committed steps.

        Returns:
            (E + 1,) int64, from 0 to the history's length.
        """

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

    def num_episodes(self, history: int) -> int:
        """Episodes of a history that are complete."""
        length = int(self.lengths[history])
        if self.info.fixed_length:
            return length // self.info.episode_length
        last = self.read(history, length - 1, length)
        is_cut = not (last["terminated"][0] or last["truncated"][0])
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
            rewards = self.read(history, 0, bounds[num_episodes])["reward"]
            total += np.add.reduceat(rewards, bounds[:num_episodes], dtype=np.float64)
        return ReturnCurve(total / len(chosen), len(chosen))

    def to_pandas(self, histories: Sequence[int] | None = None) -> "pandas.DataFrame":
        """One row per step: history, task, learner, episode, step, then what happened.

        Vectors of up to 64 numbers have a column for each, "policy.0"; the parts of a Dict or Tuple
        are "observation.PART". All in memory: choose `histories` of a large dataset.
        `fastad.histories.from_pandas` writes a dataset of it again.
        """
        from fastad.histories.formats.frames import to_frame

        return to_frame(self, histories)
