"""Dark Key-to-Door (arXiv 2210.14215, section 4): find an invisible key, then its door."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastad.base.errors import unknown
from fastad.envs.grid import GridFamily

Start = Literal["random", "centre"]


@dataclass(frozen=True)
class DarkKeyToDoor(GridFamily):
    """Reward 1 once for the key and, after it, 1 once for the door.

    A task is the key's (x, y) and the door's (x, y), int64. A cell rewards when a step ends on
    it: who starts on the key has it after a no-op. Key and door may share a cell; the door then
    takes a further step, which a no-op makes as well.
    """

    episode_length: int = 50
    """Steps per episode; the farthest key and door of the 9 x 9 room take 32."""
    start: Start = "random"
    """Where each episode begins: in a uniformly "random" cell or at the "centre"."""
    terminate_on_door: bool = False
    """End the episode at the door instead of going on to `episode_length`."""

    name = "dark-key-to-door"
    task_arguments: ClassVar = {"key": 2, "door": 2}
    landmarks = ("key", "door")
    num_phases = 3

    def __post_init__(self) -> None:
        """Refuse starts that there are not, and what every grid refuses."""
        if self.start not in ("random", "centre"):
            raise unknown("start", self.start, ("random", "centre"))
        super().__post_init__()

    @property
    def terminates(self) -> bool:
        """See `GridFamily.terminates`."""
        return self.terminate_on_door

    @property
    def random_start(self) -> bool:
        """See `GridFamily.random_start`."""
        return self.start == "random"

    def tasks(self) -> Tensor:
        """Every pair of a key and a door, (size**4, 4), doors innermost."""
        return torch.tensor(list(product(range(self.size), repeat=4)))
