"""Dark Room, its hard and its permuted variant (arXiv 2210.14215, section 4).

The goal is invisible; only the reward tells where it is. Episodes start at the centre of the
room, which therefore is no goal.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import torch
from fastad_kernels import World
from torch import Tensor

from fastad.base.errors import UserError
from fastad.envs.grid import STEPS, GridEnv, GridFamily

# Row p: which move each action makes under permutation p; row 0 leaves the actions as they are.
PERMUTATIONS = tuple(permutations(range(len(STEPS))))


@dataclass(frozen=True)
class DarkRoom(GridFamily):
    """Reward 1 on every step that ends on the goal.

    A task is the goal's (x, y), int64. The dynamics are deterministic.
    """

    name = "dark-room"

    def tasks(self) -> Tensor:
        """Every goal but the centre, (size**2 - 1, 2), by x and then y."""
        cells = torch.arange(self.size * self.size)
        cells = cells[cells != self.size * self.size // 2]
        return torch.stack((cells // self.size, cells % self.size), dim=1)

    def check_tasks(self, tasks: Tensor) -> None:
        """Refuse goals outside the room, and at its centre."""
        super().check_tasks(tasks)
        centre = self.size // 2
        at_centre = (tasks[:, :2] == centre).all(dim=1).nonzero()
        if len(at_centre):
            raise UserError(
                f"tasks[{int(at_centre[0])}] has its goal at ({centre}, {centre}), the "
                "centre, where every episode starts; choose another cell"
            )


@dataclass(frozen=True)
class DarkRoomHard(DarkRoom):
    """A larger room that rewards exactly once per episode, at the first step to end on the goal.

    The default of 20 steps is the paper's; the farthest goal of its 17 x 17 room takes 16.
    """

    size: int = 17
    """Cells along each wall, odd."""
    terminate_on_goal: bool = False
    """End the episode at the goal, as some public versions do, instead of going on to
    `episode_length`."""

    name = "dark-room-hard"
    num_phases = 2

    @property
    def terminates(self) -> bool:
        """See `GridFamily.terminates`."""
        return self.terminate_on_goal


@dataclass(frozen=True)
class DarkRoomPermuted(DarkRoom):
    """Dark Room in which each task also permutes what the five actions do.

    A task is the goal's x and y, and the permutation, 0 to 119 in the lexicographic order of
    `itertools.permutations`, int64. Under permutation `p` action `a` makes the move
    `PERMUTATIONS[p][a]`; 0 is Dark Room itself.
    """

    name = "dark-room-permuted"
    task_arguments: ClassVar = {"goal": 2, "permutation": 1}
    action_names: ClassVar[tuple[str, ...]] = ()  # every task has its own

    @property
    def task_fields(self) -> dict[str, int]:
        """See `GridFamily.task_fields`."""
        return {**super().task_fields, "permutation": len(PERMUTATIONS)}

    def tasks(self) -> Tensor:
        """Every goal with every permutation, (120 * (size**2 - 1), 3), permutations innermost."""
        goals = super().tasks().repeat_interleave(len(PERMUTATIONS), dim=0)
        order = torch.arange(len(PERMUTATIONS)).repeat(len(goals) // len(PERMUTATIONS))
        return torch.cat((goals, order[:, None]), dim=1)

    def words(self, task: Tensor) -> str:
        """See `TaskFamily.words`; with what the actions do."""
        moves = [DarkRoom.action_names[move] for move in PERMUTATIONS[int(task[2])]]
        told = ", ".join(f"{action}: {move}" for action, move in enumerate(moves))
        return f"{super().words(task)} ({told})"

    def make(self, tasks: Tensor, generator: torch.Generator) -> "PermutedEnv":
        """See `TaskFamily.make`."""
        return PermutedEnv(self, tasks, generator)


class PermutedEnv(GridEnv):
    """Rooms in which each task's third column permutes the actions."""

    def __init__(self, family: GridFamily, tasks: Tensor, generator: torch.Generator) -> None:
        super().__init__(family, tasks, generator)
        moves = torch.tensor(PERMUTATIONS, device=tasks.device)  # (120, A)
        self._permutation = moves[self.tasks[:, 2]]  # (N, A)

    def _transitions(self) -> Tensor:
        return self._moves[:, self._permutation].transpose(0, 1).contiguous()

    def _ends(self, cell: Tensor) -> Tensor:
        return super()._ends(cell).gather(1, self._permutation)

    def _world(self) -> World:
        return super()._world()._replace(permutation=self._permutation)
