"""What the grid worlds share: a walled square, five actions and cells that give a reward."""

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv

# No-op, up, right, down, left as changes of (x, y). y grows downwards, as rows of text do.
STEPS = ((0, 0), (0, -1), (1, 0), (0, 1), (-1, 0))


class GridEnv(BatchedEnv):
    """A `size` x `size` room whose invisible target cells reward whoever ends a step on them.

    The observation is one's own (x, y), int64, (N, 2). Actions are 0 no-op, 1 up (y - 1),
    2 right (x + 1), 3 down (y + 1), 4 left (x - 1); a move into a wall leaves one where one is.
    The cell with the coordinates (x, y) has the number `x * size + y`.

    Every episode is truncated after `episode_length` steps, as by Gymnasium's `TimeLimit`. With
    `terminates` it also ends, terminated, when the last target has been collected.
    Neither `reset` nor `step` waits for the device, and both update the state in place, so that
    they can be captured in a CUDA graph.

    Args:
        tasks: (N, K) int64, the columns of `task_fields`.
        generator: Draws the start cells, where these are random.
        size: Cells along each wall.
        episode_length: Steps per episode.
        terminates: Whether collecting the last target ends the episode.
        random_start: Start each episode in a uniformly random cell instead of the centre.
    """

    task_fields: ClassVar[tuple[str, ...]] = ("goal_x", "goal_y")
    landmarks: ClassVar[str] = "G"  # one letter per target cell, to draw it by
    action_space = spaces.Discrete(len(STEPS))

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        size: int,
        episode_length: int,
        terminates: bool = False,
        random_start: bool = False,
    ) -> None:
        check_size(size, needs_centre=not random_start)
        if episode_length < 1:
            raise UserError(f"episode_length={episode_length} is not possible; use 1 or more")
        self._check_tasks(tasks, size)
        super().__init__(tasks.long(), generator=generator)
        self.size = size
        self.episode_length = episode_length
        self.fixed_length = not terminates
        self.observation_space = spaces.MultiDiscrete([size, size])
        self._random_start = random_start

        device, cells = tasks.device, torch.arange(size * size, device=tasks.device)
        self._coordinates = torch.stack((cells // size, cells % size), dim=1)  # (S, 2)
        ends = self._coordinates[:, None] + torch.tensor(STEPS, device=device)  # (S, A, 2)
        ends = ends.clamp(0, size - 1)
        self._moves = ends[..., 0] * size + ends[..., 1]  # (S, A)
        # The same by action * S + cell: one index is looked up quicker than two. In this order an
        # action that does not exist leads out of the table, and is refused.
        self._moves_by_action = self._moves.t().flatten()
        self._cell = torch.empty(self.num_envs, dtype=torch.int64, device=device)
        self._start = torch.full_like(self._cell, self.num_states // 2)
        self._time = torch.zeros_like(self._cell)
        self._collected = torch.zeros_like(self._cell)[:, None]  # (N, 1)
        # (N, num_phases): the cell that gives the next reward, by rewards collected so far.
        self._targets = self._target_cells(self.tasks)
        self._first_targets = self._targets[:, 0]
        self.final_observation = self.reset()

    @classmethod
    def task_cells(cls, tasks: Tensor, *, size: int = 9, **kwargs: Any) -> Tensor:
        """The numbers of the cells that each task is made of, (M, cells) int64."""
        return tasks[:, 0:1] * size + tasks[:, 1:2]

    @property
    def num_states(self) -> int:
        """`S`, the cells of the grid."""
        return self.size * self.size

    def state(self, observation: Tensor) -> Tensor:
        """The number of the cell that an observation (..., 2) shows, (...) int64."""
        return observation[..., 0] * self.size + observation[..., 1]

    def transitions(self) -> Tensor:
        """The cell that every action leads to from every cell.

        Returns:
            (1, S, A) int64, or (N, S, A) where it depends on the task.
        """
        return self._moves[None].clone()

    def reset(self) -> Tensor:
        """Begin a new episode everywhere; returns observations (N, 2)."""
        return self._begin(torch.ones_like(self._cell, dtype=torch.bool), self._cell)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, collect, and begin a new episode where this one is over; see `BatchedEnv.step`."""
        cell = self._move(action)
        if self.num_phases > 1:
            rewarded = cell == self._targets.gather(1, self._collected)[:, 0]
            self._collected += rewarded[:, None]
        else:
            rewarded = cell == self._first_targets
        self._time += 1
        truncated = self._time == self.episode_length
        if self.fixed_length:
            terminated, ended = torch.zeros_like(truncated), truncated
        else:
            terminated = (self._collected == self.num_phases - 1)[:, 0]
            ended = terminated | truncated
        self.final_observation = self._coordinates.index_select(0, cell)
        return self._begin(ended, cell), rewarded.float(), terminated, truncated

    def distance(self, start: Tensor, end: Tensor) -> Tensor:
        """Fewest steps between cells given by their numbers, which broadcast; int64."""
        return (self._coordinates[start] - self._coordinates[end]).abs().sum(-1)

    def start_cells(self) -> Tensor:
        """The equally likely cells in which an episode begins, (starts,) int64."""
        cells = torch.arange(self.num_states, device=self.device)
        return cells if self._random_start else cells[self.num_states // 2 :][:1]

    def _target_cells(self, tasks: Tensor) -> Tensor:
        """Target cells in the order of their collection, (N, num_phases); -1 where none is left."""
        cells = self.task_cells(tasks, size=self.size)
        return torch.nn.functional.pad(cells, (0, self.num_phases - cells.shape[1]), value=-1)

    def _move(self, action: Tensor) -> Tensor:
        """The cell that each action (N,) leads to."""
        index = torch.add(self._cell, action, alpha=self.num_states)
        return self._moves_by_action.index_select(0, index)

    def _begin(self, starting: Tensor, cell: Tensor) -> Tensor:
        """Begin an episode where `starting`, go on in `cell` elsewhere; returns observations."""
        start = self._start
        if self._random_start:
            start = torch.randint(
                self.num_states, cell.shape, generator=self.generator, device=self.device
            )
        torch.where(starting, start, cell, out=self._cell)
        self._time.masked_fill_(starting, 0)
        if self.num_phases > 1:
            self._collected.masked_fill_(starting[:, None], 0)
        return self._coordinates.index_select(0, self._cell)

    @classmethod
    def _task_limits(cls, size: int) -> tuple[int, ...]:
        """One past the largest value of each task field."""
        return (size,) * len(cls.task_fields)

    @classmethod
    def _check_tasks(cls, tasks: Tensor, size: int) -> None:
        fields = ", ".join(cls.task_fields)
        if tasks.ndim != 2 or tasks.shape[1] != len(cls.task_fields) or tasks.shape[0] == 0:
            raise UserError(
                f"tasks of shape {tuple(tasks.shape)} do not fit {cls.name}; "
                f"give (N, {len(cls.task_fields)}) with N >= 1 and the columns {fields}"
            )
        if tasks.is_floating_point():
            raise UserError(f"tasks are {tasks.dtype}; {cls.name} wants int64 columns {fields}")
        limits = tasks.new_tensor(cls._task_limits(size))
        wrong = ((tasks < 0) | (tasks >= limits)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise UserError(
                f"tasks[{row}] has {cls.task_fields[column]}={int(tasks[row, column])}; "
                f"with size={size} it must lie in 0..{int(limits[column]) - 1}"
            )


def check_size(size: int, *, needs_centre: bool) -> None:
    """Refuse a grid too small to move in, or without the centre that episodes start from."""
    if size < 2 or (needs_centre and size % 2 == 0):
        least = "odd, 3 or more, to have a centre to start from" if needs_centre else "2 or more"
        raise UserError(f"size={size} is not possible; it must be {least}")
