"""Training windows: slices of train tasks' histories, a pure function of (seed, step, rank)."""

import threading
from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.histories.columns import columns
from fastad.histories.reader import HistoryDataset
from fastad.histories.schema import DatasetInfo
from fastad.methods.base import Batch
from fastad.methods.episodes import Start, Subsample, make_choice
from fastad.methods.returns import returns_to_go

MAX_STAT_REWARDS, MAX_STAT_OBSERVATIONS = 2**22, 2**13
# The columns that windows show, or are cut by; all histories have them.
SHOWN = frozenset({"observation", "action", "reward", "terminated", "truncated"})


class WindowSampler:
    """Draws windows of whole episodes, uniformly over the histories of train tasks.

    A window begins at an episode's first step and never leaves its history. Its episodes, which
    `EveryKth` or `RandomEpisodes` choose, stand one after another as if nothing lay between; the
    last one is cut at `num_steps`.

    Step `s` of a run draws one batch of `batch_size * world_size` windows, of which each rank
    assembles its own rows: two ranks with batch 32 see exactly what one with batch 64 sees.
    Nothing is kept between calls, so a resumed run continues with the same windows.

    Args:
        dataset: Windows must fit into each of its train histories.
        num_steps: `T`, per window.
        batch_size: `B`, windows per rank.
        seed: Of the whole run; the same on every rank.
        start: Where windows begin; see `EveryKth`.
        every_kth_episode: Subsampling of long, slow histories.
        subsample: "every-kth" episode; or "random" ones; or the "cut".
        cut: The early and the late part; see `RandomEpisodes`.
        rank: Of this process.
        world_size: Processes in all.

    Raises:
        UserError: If there is no train history, a window does not fit, a validation or test
            task equals a train task, or an argument is out of range.
    """

    def __init__(
        self,
        dataset: HistoryDataset,
        *,
        num_steps: int,
        batch_size: int,
        seed: int,
        start: Start = "history",
        every_kth_episode: int = 1,
        subsample: Subsample = "every-kth",
        cut: tuple[float, float] = (0.16, 0.5),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_counts(
            num_steps=num_steps,
            batch_size=batch_size,
            every_kth_episode=every_kth_episode,
            world_size=world_size,
        )
        if seed < 0:
            raise UserError(f"seed={seed} must not be negative")
        if not 0 <= rank < world_size:
            raise UserError(f"rank={rank} must lie in [0, world_size={world_size})")
        self.dataset, self.num_steps, self.batch_size = dataset, num_steps, batch_size
        self.seed, self.stride, self.subsample = seed, every_kth_episode, subsample
        self.rank, self.world_size = rank, world_size
        check_disjoint(dataset)
        self.histories = dataset.train_histories
        if len(self.histories) == 0:
            raise UserError(
                f"{dataset.path} holds no history of a train task (num_train="
                f"{dataset.info.num_train}); collect histories with num_train of 1 or more"
            )
        assert (dataset.task_ids[self.histories] < dataset.info.num_train).all()
        self.actions = dataset.info.actions
        self._dtypes = _model_dtypes(dataset.info)
        self._shapes = {name: column.shape for name, column in columns(dataset.info).items()}
        # A generator per stream; batches may be asked for by several threads.
        self._random = [np.random.Generator(np.random.Philox(key=key)) for key in (seed, 0)]
        self._lock = threading.Lock()
        self.choice = make_choice(
            dataset, num_steps, subsample=subsample, start=start,
            every_kth_episode=every_kth_episode, cut=cut,
        )  # fmt: skip
        self._check_fit()

    def batch(self, step: int, policies: Collection[str] = ()) -> Batch:
        """The windows of update `step`, always the same ones for the same arguments.

        Args:
            step: Update, from 0.
            policies: Columns of stored policies that are targets, (B, T, A) float32, besides the
                "action" taken, (B, T, ...).
        """
        histories, draws = self._mine(step)
        # Distributions in the dtype that they are stored in: PyTorch casts quicker.
        dtypes = self._dtypes | dict.fromkeys(policies, self.actions.policy_dtype)
        windows = self._gather(histories, draws, dtypes)
        starts, episode_step = self._episodes(windows)
        action, reward = windows["action"], windows["reward"]
        previous_action = np.empty_like(action)
        previous_action[:, 0] = self.actions.none.numpy()
        previous_action[:, 1:] = action[:, :-1]
        previous_reward = np.zeros_like(reward)
        previous_reward[:, 1:] = reward[:, :-1]
        shown = (windows["observation"], previous_action, previous_reward, starts, episode_step)
        targets = {"action": torch.from_numpy(action)}
        for name in policies:
            targets[name] = self.actions.restored(torch.from_numpy(windows[name]))
        return Batch(Steps(*(torch.from_numpy(values) for values in shown)), targets)

    def returns_to_go(self, step: int) -> np.ndarray:
        """What was to come in its episode at each step of `batch(step)`, (B, T) float32."""
        histories, draws = self._mine(step)
        return returns_to_go(self.dataset, histories, self.choice.positions(histories, draws))

    @cached_property
    def return_scale(self) -> float:
        """The largest return to go, by its size, in a fixed sample of windows; 1 if all are 0."""
        histories, draws = self._sample()
        positions = self.choice.positions(histories, draws)
        return float(np.abs(returns_to_go(self.dataset, histories, positions)).max()) or 1.0

    @property
    def reward_mean(self) -> float:
        """Mean reward per step over a fixed sample of windows."""
        return self._reward_stats[0]

    @property
    def reward_std(self) -> float:
        """Standard deviation of the reward over the same sample; 1 if it never varies."""
        return self._reward_stats[1]

    @cached_property
    def _reward_stats(self) -> tuple[float, float]:
        read = self._gather(*self._sample(), {"reward": self._dtypes["reward"]})
        rewards = read["reward"].astype(np.float64)
        return float(rewards.mean()), float(rewards.std()) or 1.0

    def observations(self) -> Tensor:
        """Some that windows show, (n, ...) as the model reads them, always the same ones."""
        histories, draws = self._sample()
        # Each costs a look into a file, and many of a history tell little more than some.
        count = max(1, MAX_STAT_OBSERVATIONS // self.num_steps)
        dtype = {"observation": self._dtypes["observation"]}
        read = self._gather(histories[:count], draws[:count], dtype)["observation"]
        return torch.from_numpy(read).flatten(0, 1)

    def _sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Independent of seed and rank, so that every run on a dataset normalises alike."""
        num_windows = min(256, max(16, MAX_STAT_REWARDS // self.num_steps))
        return self._draw(0, num_windows, stream=1)

    def _mine(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """This rank's part of what update `step` draws."""
        histories, draws = self._draw(step, self.batch_size * self.world_size, stream=0)
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return histories[mine], draws[mine]

    def _draw(self, step: int, count: int, *, stream: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose histories (count,), and draw (count, num_draws) numbers in [0, 1) for windows.

        Philox is keyed by the seed and counts from the step: no two steps share a number, and
        none depends on an earlier one. Stream 1 is for statistics.
        """
        random = self._random[stream]
        with self._lock:
            # To set the counter is several times as quick as to make a generator.
            state: dict[str, Any] = dict(random.bit_generator.state)
            state["state"]["counter"][:] = 0, step, stream, 0
            state |= {"buffer_pos": 4, "has_uint32": 0}  # nothing is left of an earlier draw
            random.bit_generator.state = state
            draws = random.random((count, 1 + self.choice.num_draws))
        chosen = (draws[:, 0] * len(self.histories)).astype(np.int64)
        return self.histories[chosen], draws[:, 1:]

    def _gather(
        self, histories: np.ndarray, draws: np.ndarray, dtypes: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Copy windows of columns into arrays (B, T, ...), whose dtypes are given by name."""
        arrays = {
            name: np.empty((len(histories), self.num_steps, *self._shapes[name]), dtype)
            for name, dtype in dtypes.items()
        }
        self.dataset.gather(histories, self.choice.positions(histories, draws), arrays)
        return arrays

    @cached_property
    def _fixed_episodes(self) -> tuple[np.ndarray, np.ndarray]:
        """What `_episodes` gives where all episodes are equally long: the same for every batch."""
        step = np.arange(self.num_steps) % self.dataset.info.episode_length
        episode_step = np.tile(step, (self.batch_size, 1))
        return episode_step == 0, episode_step

    def _episodes(self, windows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Where episodes start, (B, T) bool, and the step within each, (B, T) int64."""
        if self.dataset.info.fixed_length:
            return self._fixed_episodes
        shape = windows["terminated"].shape
        time = np.arange(self.num_steps)
        starts = np.ones(shape, dtype=bool)
        starts[:, 1:] = (windows["terminated"] | windows["truncated"])[:, :-1]
        began = np.maximum.accumulate(np.where(starts, time, 0), axis=1)
        return starts, time - began

    def _check_fit(self) -> None:
        lengths = self.dataset.lengths[self.histories]
        fixed, choice = self.dataset.info.fixed_length, self.choice
        # Histories of one length with equally long episodes are alike.
        _, first, of = np.unique(lengths, return_index=True, return_inverse=True)
        asked = self.histories[first] if fixed else self.histories
        available = np.array([choice.available(int(history)) for history in asked])
        available = available[of] if fixed else available
        shortest = int(available.argmin())
        longest, history = int(available[shortest]), int(self.histories[shortest])
        if longest >= self.num_steps:
            return
        remedy = f"use a window of {longest} steps or less"
        if self.stride > 1:
            remedy += ", or a lower every_kth_episode"
        if not self.dataset.complete:
            remedy += ", or finish the dataset with `fastad collect`"
        rule = f"every_kth_episode={self.stride}"
        if self.subsample != "every-kth":
            rule = f"subsample={self.subsample}"
        raise UserError(
            f"window={self.num_steps} is longer than history {history} of "
            f"{self.dataset.path}: {lengths[shortest]} steps, of which {rule} leaves {longest}; "
            f"{remedy}"
        )


def check_columns(
    dataset: HistoryDataset, needs: frozenset[str], *, wanted_by: str, fix: str
) -> None:
    """Refuse a dataset without a column that a method needs; the error names who wants it."""
    missing = sorted(needs - columns(dataset.info).keys())
    if missing:
        raise UserError(
            f"{wanted_by} needs the column {missing[0]}, which {dataset.path} lacks; {fix}"
        )


def _model_dtypes(info: DatasetInfo) -> dict[str, Any]:
    """The columns that windows show, and their dtypes there."""
    space = info.observation_space
    is_whole = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    dtypes: dict[str, Any] = {
        "observation": np.int64 if is_whole else columns(info)["observation"].dtype,
        "action": np.float32 if isinstance(info.action_space, spaces.Box) else np.int64,
        "reward": np.float32,
    }
    if not info.fixed_length:
        dtypes |= {"terminated": np.bool_, "truncated": np.bool_}
    return dtypes


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1")


def check_disjoint(dataset: HistoryDataset) -> None:
    """No validation or test task may be trained on, under whatever number."""
    train = {task.tobytes() for task in dataset.train_tasks}
    for split in ("validation", "test"):
        rows = dataset.info.task_rows(split)
        for index, task in zip(range(rows.start, rows.stop), dataset.tasks[rows], strict=True):
            if task.tobytes() in train:
                raise UserError(
                    f"{dataset.path / 'tasks.npy'}: {split} task {index}, {task.tolist()}, is a "
                    "train task as well; collect with another split"
                )
