"""What a batch of training windows shows: which steps of which histories, and where each begins."""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastad.methods.episodes import Choice, EveryKth

# Streams of random numbers of a run: windows, what statistics are taken of, and rows that are
# packed with contexts. Method DPT has another for the order of steps.
WINDOWS, STATISTICS, PACKED = 0, 1, 3


class Shown(NamedTuple):
    """Steps of histories.

    Attributes:
        histories: (B, T) int64, the history of each step; (B,) where rows are not packed.
        steps: (B, T) int64, their numbers in it.
        begins: (B, T) bool, where contexts begin; None where each row is one.
    """

    histories: np.ndarray
    steps: np.ndarray
    begins: np.ndarray | None = None

    def contexts(self) -> Iterator[tuple[int, np.ndarray]]:
        """The history and the steps (n,) of every context, in order."""
        if self.begins is None:
            yield from zip(self.histories.tolist(), self.steps, strict=True)
            return
        first = np.flatnonzero(self.begins)
        histories = self.histories.ravel()[first].tolist()
        yield from zip(histories, np.split(self.steps.ravel(), first[1:]), strict=True)

    def first(self, count: int) -> "Shown":
        """The first rows alone."""
        return Shown(*(None if field is None else field[:count] for field in self))  # type: ignore[arg-type]


class Draws:
    """Chooses what batches show, every row by numbers of its own.

    Philox is keyed by the seed and counts from the step: no two steps share a number, and none
    depends on an earlier one. Several threads may ask.

    Args:
        seed: Of the run.
        histories: Numbers of those to choose from.
        choice: Of their steps.
        num_steps: `T`, of a row.
    """

    def __init__(self, seed: int, histories: np.ndarray, choice: Choice, num_steps: int) -> None:
        self.histories, self.choice, self.num_steps = histories, choice, num_steps
        # What statistics are taken of depends on no seed: every run on a dataset normalises alike.
        self._random = {key: np.random.Generator(np.random.Philox(key=key)) for key in (seed, 0)}
        self._seed = seed
        self._lock = threading.Lock()

    def windows(self, step: int, rows: slice, *, statistics: bool = False) -> Shown:
        """A window for each of some rows, which are drawn with all before them."""
        stream = STATISTICS if statistics else WINDOWS
        with self._lock:
            random = self._at(step, stream, 0, statistics=statistics)
            draws = random.random((rows.stop, 1 + self.choice.num_draws))[rows]
        histories = self._chosen(draws[:, 0])
        return Shown(histories, self.choice.positions(histories, draws[:, 1:]))

    def packed(self, step: int, rows: slice, *, statistics: bool = False) -> Shown:
        """Rows of contexts one after another: each is what the rule leaves of a history.

        The last of a row is cut where the row ends: no step of it is empty.
        """
        filled = [self._pack(step, row, statistics) for row in range(rows.start, rows.stop)]
        histories, steps, begins = zip(*filled, strict=True)
        return Shown(np.stack(histories), np.stack(steps), np.stack(begins))

    def _pack(
        self, step: int, row: int, statistics: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert isinstance(self.choice, EveryKth)
        steps = np.empty(self.num_steps, np.int64)
        histories, begins = np.empty_like(steps), np.zeros(self.num_steps, bool)
        at = 0
        with self._lock:
            random = self._at(step, PACKED, row, statistics=statistics)
            while at < self.num_steps:
                draws = random.random(2)
                history = int(self._chosen(draws[0]))
                part = self.choice.part(history, draws[1], self.num_steps - at)
                begins[at] = True
                steps[at : at + len(part)] = part
                histories[at : at + len(part)] = history
                at += len(part)
        return histories, steps, begins

    def _chosen(self, draws: Any) -> Any:
        return self.histories[(draws * len(self.histories)).astype(np.int64)]

    def _at(self, step: int, stream: int, row: int, *, statistics: bool) -> np.random.Generator:
        """The generator where the numbers of a step begin; to be asked under the lock."""
        random = self._random[0 if statistics else self._seed]
        # To set the counter is several times as quick as to make a generator.
        state: dict[str, Any] = dict(random.bit_generator.state)
        state["state"]["counter"][:] = 0, step, stream, row
        state |= {"buffer_pos": 4, "has_uint32": 0}  # nothing is left of an earlier draw
        random.bit_generator.state = state
        return random
