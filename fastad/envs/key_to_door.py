"""Dark Key-to-Door (arXiv 2210.14215, section 4): find an invisible key, then its door."""

from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from fastad.base.errors import unknown
from fastad.envs.grid import GridEnv, check_size

Start = Literal["random", "centre"]


class DarkKeyToDoor(GridEnv):
    """Reward 1 once for the key and, after it, 1 once for the door.

    A cell rewards when a step ends on it: who starts on the key has it after a no-op. Key and
    door may share a cell; the door then takes a further step, which a no-op makes as well.

    Args:
        tasks: (N, 4) int64, the key's (x, y) and the door's (x, y).
        generator: Draws the start cells.
        size: Cells along each wall; odd if episodes start at the centre.
        episode_length: Steps per episode; the farthest key and door of the 9 x 9 room take 32.
        start: Where each episode begins: in a uniformly "random" cell or at the "centre".
        terminate_on_door: End the episode at the door instead of going on to `episode_length`.
    """

    name = "dark-key-to-door"
    task_fields = ("key_x", "key_y", "door_x", "door_y")
    landmarks = "KD"
    num_phases = 3

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        size: int = 9,
        episode_length: int = 50,
        start: Start = "random",
        terminate_on_door: bool = False,
    ) -> None:
        if start not in ("random", "centre"):
            raise unknown("start", start, ("random", "centre"))
        super().__init__(
            tasks,
            generator=generator,
            size=size,
            episode_length=episode_length,
            terminates=terminate_on_door,
            random_start=start == "random",
        )

    @classmethod
    def enumerate_tasks(cls, *, size: int = 9, start: Start = "random", **kwargs: Any) -> Tensor:
        """Every pair of a key and a door, (size**4, 4), doors innermost."""
        check_size(size, needs_centre=start == "centre")
        return torch.tensor(list(product(range(size), repeat=4)))

    @classmethod
    def task_cells(cls, tasks: Tensor, *, size: int = 9, **kwargs: Any) -> Tensor:
        """The numbers of the key's and the door's cell, (M, 2) int64."""
        return torch.cat(
            (super().task_cells(tasks, size=size), super().task_cells(tasks[:, 2:], size=size)),
            dim=1,
        )

    def optimal_return(self) -> Tensor:
        """Rewards that shortest paths collect in time, in the mean over starts; (N,) float32."""
        # Standing on a target already, one still has to end a step there: a no-op.
        key, door = self._targets[:, :1], self._targets[:, 1:2]
        key_steps = self.distance(self.start_cells(), key).clamp(min=1)  # (N, starts)
        door_steps = key_steps + self.distance(key, door).clamp(min=1)
        in_time = [(steps <= self.episode_length).float() for steps in (key_steps, door_steps)]
        return (in_time[0] + in_time[1]).mean(dim=1)
