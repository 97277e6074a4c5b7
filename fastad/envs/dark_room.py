"""Dark Room, its hard and its permuted variant (arXiv 2210.14215, section 4).

The goal is invisible; only the reward tells where it is. Episodes start at the centre of the
room, which therefore is no goal.
"""

from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from fastad.base.errors import UserError
from fastad.envs.grid import STEPS, GridEnv, check_size

# Row p: which move each action makes under permutation p; row 0 leaves the actions as they are.
PERMUTATIONS = tuple(permutations(range(len(STEPS))))


class DarkRoom(GridEnv):
    """Reward 1 on every step that ends on the goal.

    Args:
        tasks: (N, 2) int64, the goal's (x, y).
        generator: Not drawn from; the dynamics are deterministic.
        size: Cells along each wall, odd.
        episode_length: Steps per episode.
    """

    name = "dark-room"

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        size: int = 9,
        episode_length: int = 20,
    ) -> None:
        super().__init__(tasks, generator=generator, size=size, episode_length=episode_length)

    @classmethod
    def enumerate_tasks(cls, *, size: int = 9, **kwargs: Any) -> Tensor:
        """Every goal but the centre, (size**2 - 1, 2), by x and then y."""
        check_size(size, needs_centre=True)
        cells = torch.arange(size * size)
        cells = cells[cells != size * size // 2]
        return torch.stack((cells // size, cells % size), dim=1)

    def optimal_return(self) -> Tensor:
        """All steps but those before the first that can end on the goal, (N,) float32."""
        steps = self.distance(self.start_cells(), self._targets[:, 0])
        return (self.episode_length - steps + 1).clamp(min=0).float()

    @classmethod
    def _check_tasks(cls, tasks: Tensor, size: int) -> None:
        super()._check_tasks(tasks, size)
        at_centre = (tasks[:, :2] == size // 2).all(dim=1).nonzero()
        if len(at_centre):
            raise UserError(
                f"tasks[{int(at_centre[0])}] has its goal at ({size // 2}, {size // 2}), the "
                "centre, where every episode starts; choose another cell"
            )


class DarkRoomHard(DarkRoom):
    """A larger room that rewards exactly once per episode, at the first step to end on the goal.

    The default of 20 steps is the paper's; the farthest goal of its 17 x 17 room takes 16.

    Args:
        tasks: (N, 2) int64, the goal's (x, y).
        generator: Not drawn from; the dynamics are deterministic.
        size: Cells along each wall, odd.
        episode_length: Steps per episode.
        terminate_on_goal: End the episode at the goal, as some public versions do, instead of
            going on to `episode_length`.
    """

    name = "dark-room-hard"
    num_phases = 2

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        size: int = 17,
        episode_length: int = 20,
        terminate_on_goal: bool = False,
    ) -> None:
        GridEnv.__init__(
            self,
            tasks,
            generator=generator,
            size=size,
            episode_length=episode_length,
            terminates=terminate_on_goal,
        )

    @classmethod
    def enumerate_tasks(cls, *, size: int = 17, **kwargs: Any) -> Tensor:
        """Every goal but the centre, (size**2 - 1, 2), by x and then y."""
        return super().enumerate_tasks(size=size)

    @classmethod
    def task_cells(cls, tasks: Tensor, *, size: int = 17, **kwargs: Any) -> Tensor:
        """The number of the goal's cell, (M, 1) int64."""
        return super().task_cells(tasks, size=size)

    def optimal_return(self) -> Tensor:
        """1 where the goal can be reached in time, else 0; (N,) float32."""
        return super().optimal_return().clamp(max=1.0)


class DarkRoomPermuted(DarkRoom):
    """Dark Room in which each task also permutes what the five actions do.

    Under permutation `p` action `a` makes the move `PERMUTATIONS[p][a]`.

    Args:
        tasks: (N, 3) int64: the goal's x and y, and the permutation, 0 to 119 in the
            lexicographic order of `itertools.permutations`; 0 is Dark Room itself.
        generator: Not drawn from; the dynamics are deterministic.
        size: Cells along each wall, odd.
        episode_length: Steps per episode.
    """

    name = "dark-room-permuted"
    task_fields = ("goal_x", "goal_y", "permutation")

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        size: int = 9,
        episode_length: int = 20,
    ) -> None:
        super().__init__(tasks, generator=generator, size=size, episode_length=episode_length)
        table = torch.tensor(PERMUTATIONS, device=tasks.device)  # (120, A)
        self._permutation = table[self.tasks[:, 2]]  # (N, A)

    @classmethod
    def enumerate_tasks(cls, *, size: int = 9, **kwargs: Any) -> Tensor:
        """Every goal with every permutation, (120 * (size**2 - 1), 3), permutations innermost."""
        goals = super().enumerate_tasks(size=size).repeat_interleave(len(PERMUTATIONS), dim=0)
        order = torch.arange(len(PERMUTATIONS)).repeat(len(goals) // len(PERMUTATIONS))
        return torch.cat((goals, order[:, None]), dim=1)

    def transitions(self) -> Tensor:
        """The cell that every action leads to from every cell, (N, S, A) int64."""
        return self._moves[:, self._permutation].transpose(0, 1).contiguous()

    def _move(self, action: Tensor) -> Tensor:
        return super()._move(self._permutation.gather(1, action[:, None])[:, 0])

    @classmethod
    def _task_limits(cls, size: int) -> tuple[int, ...]:
        return size, size, len(PERMUTATIONS)
