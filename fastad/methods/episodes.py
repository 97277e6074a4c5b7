"""Which episodes of a history a training window shows."""

from typing import Literal, Protocol, get_args

import numpy as np

from fastad.base.errors import UserError, unknown
from fastad.histories.histories import Histories

Start = Literal["history", "anywhere", "end"]
Subsample = Literal["every-kth", "cut", "random"]


class Choice(Protocol):
    """A rule by which windows are chosen.

    Attributes:
        num_draws: Uniform random numbers that one window takes.
    """

    num_draws: int

    def positions(self, histories: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The steps that windows of histories (B,) show, (B, T) int64.

        Args:
            histories: Their numbers in the dataset.
            draws: (B, num_draws), in [0, 1).
        """
        ...

    def available(self, history: int) -> int:
        """Steps of the longest window that always fits into a history."""
        ...


class EveryKth:
    """Episodes e, e + k, e + 2k, ..., one after another as if nothing lay between.

    With start="history", e is 0: learners are seen to begin from scratch. "anywhere": e is uniform
    over the episodes from which a whole window fits; "end": the last of these.

    Args:
        dataset: Where the histories are.
        num_steps: `T`, per window; the last episode is cut there.
        start: See above.
        stride: `k`.
    """

    num_draws = 1

    def __init__(self, dataset: Histories, num_steps: int, start: Start, stride: int) -> None:
        self.dataset, self.num_steps = dataset, num_steps
        self.start, self.stride = start, stride
        self._valid_starts: dict[int, np.ndarray] = {}
        self._left: dict[int, np.ndarray] = {}
        length, time = dataset.info.episode_length, np.arange(num_steps)
        # Where episodes are equally long: steps from the first on.
        self._shown = stride * (time // length) * length + time % length
        self._num_starts = self._num_fixed_starts(dataset.lengths)

    def positions(self, histories: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """See `Choice.positions`."""
        where = draws[:, 0]
        if not self.dataset.info.fixed_length:
            pairs = zip(histories, where, strict=True)
            return np.stack([self._variable_positions(int(h), w) for h, w in pairs])
        num_starts = self._num_starts[histories]
        first = num_starts - 1 if self.start == "end" else (where * num_starts).astype(np.int64)
        return first[:, None] * self.dataset.info.episode_length + self._shown

    def available(self, history: int) -> int:
        """See `Choice.available`."""
        if self.dataset.info.fixed_length and self._num_starts[history] >= 1:
            return self.num_steps  # arithmetic, never a scan
        if self.stride == 1:
            return int(self.dataset.lengths[history])
        steps = _steps_from(self.dataset.episode_bounds(history), self.stride)
        return int(steps[0] if self.start == "history" else steps.max())

    def part(self, history: int, where: float, room: int) -> np.ndarray:
        """The steps (n,) that a window of `room` steps shows, or of as many as a history leaves.

        Args:
            history: Its number.
            where: A draw, in [0, 1).
            room: Steps at most.
        """
        bounds = self.dataset.episode_bounds(history)
        if history not in self._left:
            left = _steps_from(bounds, self.stride)
            self._left[history] = left[:1] if self.start == "history" else left
        left = self._left[history]
        num_steps = min(room, int(left.max()))
        starts = np.flatnonzero(left >= num_steps)
        episode = int(starts[-1 if self.start == "end" else int(where * len(starts))])
        if self.stride == 1:
            return bounds[episode] + np.arange(num_steps)
        return _joined(bounds, np.arange(episode, len(bounds) - 1, self.stride), num_steps)

    def _num_fixed_starts(self, lengths: np.ndarray) -> np.ndarray:
        """From how many first episodes, 0 onwards, a window fits."""
        length = self.dataset.info.episode_length
        num_before = (self.num_steps - 1) // length  # whole episodes before the window's last
        rest = self.num_steps - num_before * length
        num_starts = (lengths - rest) // length + 1 - self.stride * num_before
        return np.minimum(num_starts, 1) if self.start == "history" else num_starts

    def _variable_positions(self, history: int, where: float) -> np.ndarray:
        time = np.arange(self.num_steps)
        if self.stride == 1 and self.start == "history":
            return time
        bounds, starts = self.dataset.episode_bounds(history), self._variable_starts(history)
        episode = int(starts[-1 if self.start == "end" else int(where * len(starts))])
        if self.stride == 1:
            return bounds[episode] + time
        return _joined(bounds, np.arange(episode, len(bounds) - 1, self.stride), self.num_steps)

    def _variable_starts(self, history: int) -> np.ndarray:
        """First episodes from which a window fits; found once per history."""
        if history not in self._valid_starts:
            available = _steps_from(self.dataset.episode_bounds(history), self.stride)
            if self.start == "history":
                available = available[:1]
            self._valid_starts[history] = np.flatnonzero(available >= self.num_steps)
        return self._valid_starts[history]


class RandomEpisodes:
    """Episodes drawn without replacement, in the order in which they happened.

    With `early` and `late`, the *cut*: J episodes of the first `early` of the history, J uniform
    from 0 to one less than a window holds, then episodes of what comes after `late` of it. The
    learner is seen to search for any length of time, and then to have learned.

    Args:
        dataset: Where the histories are.
        num_steps: `T`, per window; the last episode is cut there.
        early: A share of the history's episodes, rounded up; None draws from all of them.
        late: A share of the history's episodes, rounded down.
    """

    def __init__(
        self, dataset: Histories, num_steps: int, early: float | None = None, late: float = 0.0
    ) -> None:
        self.dataset, self.num_steps, self.early, self.late = dataset, num_steps, early, late
        length = dataset.info.episode_length
        # Of full length; where they end early, a window holds more.
        self.num_shown = -(-num_steps // length)
        self._time = np.arange(length)
        longest = int(dataset.lengths.max(initial=0))
        most = longest // length if dataset.info.fixed_length else longest
        self.num_draws = 1 + most

    def positions(self, histories: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """See `Choice.positions`."""
        if not self.dataset.info.fixed_length:
            rows = zip(histories, draws, strict=True)
            return np.stack([self._variable_positions(int(h), row) for h, row in rows])
        count = self.dataset.lengths[histories] // self.dataset.info.episode_length
        num_early, first_late = self._parts(count)
        episode, keys = np.arange(self.num_draws - 1), draws[:, 1:]
        num_drawn = self._num_early(draws[:, 0], num_early)
        late = (episode >= first_late[:, None]) & (episode < count[:, None])
        chosen = _lowest(keys, late, self.num_shown - num_drawn)
        if num_drawn.any():
            chosen |= _lowest(keys, episode < num_early[:, None], num_drawn)
        shown = chosen.nonzero()[1].reshape(len(histories), self.num_shown)
        steps = shown[:, :, None] * self.dataset.info.episode_length + self._time
        return steps.reshape(len(histories), -1)[:, : self.num_steps]

    def available(self, history: int) -> int:
        """See `Choice.available`."""
        bounds = self.dataset.episode_bounds(history)
        count = len(bounds) - 1
        if self.dataset.info.fixed_length:
            count = int(bounds[-1]) // self.dataset.info.episode_length  # whole episodes
        first_late = int(self._parts(np.array([count]))[1][0])
        return int(bounds[count] - bounds[first_late])

    def _parts(self, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of histories of `count` episodes: early ones, and the number of the first late one."""
        early = np.zeros_like(count)
        if self.early is not None:
            early = np.ceil(self.early * count - 1e-9).astype(np.int64)
        return early, np.floor(self.late * count + 1e-9).astype(np.int64)

    def _num_early(self, draws: np.ndarray, num_early: np.ndarray) -> np.ndarray:
        """`J`, uniform; none where all episodes are alike."""
        return (draws * (np.minimum(num_early, self.num_shown - 1) + 1)).astype(np.int64)

    def _variable_positions(self, history: int, draws: np.ndarray) -> np.ndarray:
        bounds = self.dataset.episode_bounds(history)
        count = len(bounds) - 1
        num_early, first_late = self._parts(np.array([count]))
        num_drawn = int(self._num_early(draws[:1], num_early)[0])
        keys = draws[1 : count + 1]
        early = np.sort(np.argsort(keys[: num_early[0]])[:num_drawn])
        order = first_late[0] + np.argsort(keys[first_late[0] :])
        lengths = np.diff(bounds)
        missing = self.num_steps - lengths[early].sum()
        enough = int(np.searchsorted(lengths[order].cumsum(), missing)) + 1
        shown = np.concatenate([early, np.sort(order[:enough])])
        return _joined(bounds, shown, self.num_steps)


def make_choice(
    dataset: Histories,
    num_steps: int,
    *,
    subsample: Subsample,
    start: Start,
    every_kth_episode: int,
    cut: tuple[float, float],
) -> Choice:
    """The rule that settings name.

    Raises:
        UserError: For settings that do not go together, or a name that is none.
    """
    for field, value, valid in (("start", start, Start), ("subsample", subsample, Subsample)):
        if value not in get_args(valid):
            raise unknown(field, value, get_args(valid))
    if subsample == "every-kth":
        return EveryKth(dataset, num_steps, start, every_kth_episode)
    if every_kth_episode != 1 or start != "history":
        raise UserError(
            f"subsample={subsample} draws its own episodes, and start={start} with "
            f"every_kth_episode={every_kth_episode} are of subsample=every-kth; leave them out"
        )
    if subsample == "random":
        return RandomEpisodes(dataset, num_steps)
    return RandomEpisodes(dataset, num_steps, *cut)


def _lowest(keys: np.ndarray, among: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Where the `count` (B,) lowest keys (B, E) stand, among those of a mask (B, E)."""
    order = np.where(among, keys, np.inf).argsort(axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(keys.shape[1])[None], axis=1)
    return np.asarray(rank < count[:, None])


def _joined(bounds: np.ndarray, episodes: np.ndarray, num_steps: int) -> np.ndarray:
    """The first `num_steps` steps of episodes, one after another, (num_steps,)."""
    parts: list[np.ndarray] = []
    missing = num_steps
    for episode in episodes:
        parts.append(np.arange(bounds[episode], bounds[episode + 1]))
        missing -= len(parts[-1])
        if missing <= 0:
            break
    return np.concatenate(parts)[:num_steps]


def _steps_from(bounds: np.ndarray, stride: int) -> np.ndarray:
    """Steps in episodes e, e + stride, e + 2 stride, ... to the end, for every e, (E,)."""
    lengths = np.diff(bounds)
    padded = np.zeros(-(-len(lengths) // stride) * stride, dtype=np.int64)
    padded[: len(lengths)] = lengths
    table = padded.reshape(-1, stride)
    return table[::-1].cumsum(axis=0)[::-1].ravel()[: len(lengths)]
