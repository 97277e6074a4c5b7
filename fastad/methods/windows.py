"""Training windows: slices of train tasks' histories, a pure function of (seed, step, rank)."""

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
from fastad.histories.histories import Histories
from fastad.histories.schema import DatasetInfo
from fastad.methods.base import Batch
from fastad.methods.episodes import Start, Subsample, make_choice
from fastad.methods.returns import returns_to_go
from fastad.methods.shown import Draws, Shown

MAX_STAT_REWARDS, MAX_STAT_OBSERVATIONS = 2**22, 2**13
# The columns that windows show, or are cut by; all histories have them.
SHOWN = frozenset({"observation", "action", "reward", "terminated", "truncated"})


class WindowSampler:
    """Draws windows of whole episodes, uniformly over the histories of train tasks.

    A window begins at an episode's first step and never leaves its history. Its episodes, which
    `EveryKth` or `RandomEpisodes` choose, stand one after another as if nothing lay between; the
    last one is cut at `num_steps`. With `pack`, a history that leaves room in a row is followed by
    another, cut in its turn where the row ends: a context of its own, which sees nothing of those
    before it. So histories and windows may be of any length, and no step is empty.

    Step `s` of a run draws one batch of `batch_size * world_size` windows, of which each rank
    assembles its own rows: two ranks with batch 32 see exactly what one with batch 64 sees.
    Nothing is kept between calls, so a resumed run continues with the same windows.

    Args:
        dataset: Windows must fit into each of its train histories, unless they are packed.
        num_steps: `T`, per window.
        batch_size: `B`, windows per rank.
        seed: Of the whole run; the same on every rank.
        start: Where windows begin; see `EveryKth`.
        every_kth_episode: Subsampling of long, slow histories.
        subsample: "every-kth" episode; or "random" ones; or the "cut".
        cut: The early and the late part; see `RandomEpisodes`.
        pack: Whether rows of `num_steps` hold as many contexts as fit.
        rank: Of this process.
        world_size: Processes in all.

    Raises:
        UserError: If there is no train history, a window does not fit, a validation or test
            task equals a train task, or an argument is out of range.
    """

    def __init__(
        self,
        dataset: Histories,
        *,
        num_steps: int,
        batch_size: int,
        seed: int,
        start: Start = "history",
        every_kth_episode: int = 1,
        subsample: Subsample = "every-kth",
        cut: tuple[float, float] = (0.16, 0.5),
        pack: bool = False,
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
        self.pack = pack
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
        # Episodes of one length begin where arithmetic says, unless contexts are in the way.
        self._has_flags = pack or not dataset.info.fixed_length
        self._dtypes = _model_dtypes(dataset.info, with_flags=self._has_flags)
        self._shapes = {name: column.shape for name, column in columns(dataset.info).items()}
        self.choice = make_choice(
            dataset, num_steps, subsample=subsample, start=start,
            every_kth_episode=every_kth_episode, cut=cut,
        )  # fmt: skip
        draws = Draws(seed, self.histories, self.choice, num_steps)
        self._show = draws.packed if pack else draws.windows
        if not pack:
            self._check_fit()
        elif subsample != "every-kth":
            raise UserError(
                f"pack=True shows histories in one piece, or every k-th episode of them, and "
                f"subsample={subsample} draws episodes to fill a window; leave one of them out"
            )

    def batch(self, step: int, policies: Collection[str] = ()) -> Batch:
        """The windows of update `step`, always the same ones for the same arguments.

        Args:
            step: Update, from 0.
            policies: Columns of stored policies that are targets, (B, T, A) float32, besides the
                "action" taken, (B, T, ...).
        """
        shown = self._mine(step)
        # Distributions in the dtype that they are stored in: PyTorch casts quicker.
        dtypes = self._dtypes | dict.fromkeys(policies, self.actions.policy_dtype)
        windows = self._gather(shown, dtypes)
        # Where contexts begin.
        begins = np.s_[:, 0] if shown.begins is None else shown.begins
        starts, episode_step = self._episodes(windows, begins)
        action, reward = windows["action"], windows["reward"]
        previous_action = np.empty_like(action)
        previous_action[:, 1:] = action[:, :-1]
        previous_action[begins] = self.actions.none.numpy()
        previous_reward = np.empty_like(reward)
        previous_reward[:, 1:] = reward[:, :-1]
        previous_reward[begins] = 0.0
        fields = (windows["observation"], previous_action, previous_reward, starts, episode_step)
        steps = Steps(*(torch.from_numpy(values) for values in fields))
        if shown.begins is not None:
            steps = steps._replace(context_start=torch.from_numpy(shown.begins))
        targets = {"action": torch.from_numpy(action)}
        for name in policies:
            targets[name] = self.actions.restored(torch.from_numpy(windows[name]))
        return Batch(steps, targets)

    def returns_to_go(self, step: int) -> np.ndarray:
        """What was to come in its episode at each step of `batch(step)`, (B, T) float32."""
        return self._returns_to_go(self._mine(step))

    @cached_property
    def return_scale(self) -> float:
        """The largest return to go, by its size, in a fixed sample of windows; 1 if all are 0."""
        return float(np.abs(self._returns_to_go(self._sample())).max()) or 1.0

    def _returns_to_go(self, shown: Shown) -> np.ndarray:
        rows = returns_to_go(self.dataset, shown.contexts())
        return np.concatenate(rows).reshape(shown.steps.shape)

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
        read = self._gather(self._sample(), {"reward": self._dtypes["reward"]})
        rewards = read["reward"].astype(np.float64)
        return float(rewards.mean()), float(rewards.std()) or 1.0

    def observations(self) -> Tensor:
        """Some that windows show, (n, ...) as the model reads them, always the same ones."""
        # Each costs a look into a file, and many of a history tell little more than some.
        count = max(1, MAX_STAT_OBSERVATIONS // self.num_steps)
        dtype = {"observation": self._dtypes["observation"]}
        read = self._gather(self._sample().first(count), dtype)["observation"]
        return torch.from_numpy(read).flatten(0, 1)

    def _sample(self) -> Shown:
        """Independent of seed and rank, so that every run on a dataset normalises alike."""
        num_windows = min(256, max(16, MAX_STAT_REWARDS // self.num_steps))
        return self._show(0, slice(0, num_windows), statistics=True)

    def _mine(self, step: int) -> Shown:
        """This rank's part of what update `step` shows."""
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return self._show(step, mine)

    def _gather(self, shown: Shown, dtypes: dict[str, Any]) -> dict[str, np.ndarray]:
        """Copy steps of columns into arrays (B, T, ...), whose dtypes are given by name."""
        arrays = {
            name: np.empty((*shown.steps.shape, *self._shapes[name]), dtype)
            for name, dtype in dtypes.items()
        }
        if shown.begins is None:
            self.dataset.gather(shown.histories, shown.steps, arrays)
            return arrays
        # Every step as a window of its own.
        single = {name: x.reshape(-1, 1, *self._shapes[name]) for name, x in arrays.items()}
        self.dataset.gather(shown.histories.ravel(), shown.steps.reshape(-1, 1), single)
        return arrays

    @cached_property
    def _fixed_episodes(self) -> tuple[np.ndarray, np.ndarray]:
        """What `_episodes` gives where all episodes are equally long: the same for every batch."""
        step = np.arange(self.num_steps) % self.dataset.info.episode_length
        episode_step = np.tile(step, (self.batch_size, 1))
        return episode_step == 0, episode_step

    def _episodes(
        self, windows: dict[str, np.ndarray], begins: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where episodes start, (B, T) bool, and the step within each, (B, T) int64."""
        if not self._has_flags:
            return self._fixed_episodes
        time = np.arange(self.num_steps)
        starts = np.empty_like(windows["terminated"])
        starts[:, 1:] = (windows["terminated"] | windows["truncated"])[:, :-1]
        starts[begins] = True
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
        if self.subsample == "every-kth" and available.max() >= self.num_steps:
            remedy += ", or --pack, which takes histories of any length"
        rule = f"every_kth_episode={self.stride}"
        if self.subsample != "every-kth":
            rule = f"subsample={self.subsample}"
        raise UserError(
            f"window={self.num_steps} is longer than history {history} of "
            f"{self.dataset.path}: {lengths[shortest]} steps, of which {rule} leaves {longest}; "
            f"{remedy}"
        )


def check_columns(dataset: Histories, needs: frozenset[str], *, wanted_by: str, fix: str) -> None:
    """Refuse a dataset without a column that a method needs; the error names who wants it."""
    missing = sorted(needs - columns(dataset.info).keys())
    if missing:
        raise UserError(
            f"{wanted_by} needs the column {missing[0]}, which {dataset.path} lacks; {fix}"
        )


def _model_dtypes(info: DatasetInfo, *, with_flags: bool) -> dict[str, Any]:
    """The columns that windows show, and their dtypes there."""
    space = info.observation_space
    is_whole = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    dtypes: dict[str, Any] = {
        "observation": np.int64 if is_whole else columns(info)["observation"].dtype,
        "action": np.float32 if isinstance(info.action_space, spaces.Box) else np.int64,
        "reward": np.float32,
    }
    if with_flags:
        dtypes |= {"terminated": np.bool_, "truncated": np.bool_}
    return dtypes


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1")


def check_disjoint(dataset: Histories) -> None:
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
