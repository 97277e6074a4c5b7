"""Point mass: a point moved by continuous actions towards a hidden goal that pays by nearness."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.envs.family import EnvSpec, Split, TaskFamily
from fastad.envs.pictures import draw_plane
from fastad.envs.scene import Mark, Plane

STEP = 0.15  # the longest move
LARGEST = 1.2  # coordinate of the plane, of which nobody leaves the square
NEAREST, FARTHEST = 0.5, 1.0  # of goals from the origin
REACH = 0.25  # distance from the goal at which a step pays 1 / e
EXPERT_STD = 0.05  # of the expert's actions, each coordinate by itself


@dataclass(frozen=True)
class PointMass(TaskFamily):
    """A point in the plane that starts at the origin, and is paid by how near the goal it is.

    An action is a move (x, y) in steps of 0.15, shortened to one step if it is longer. Every step
    pays exp(-(d / 0.25)^2) where it ends d from the goal. A task is the goal (x, y), float32, which
    is 0.5 to 1 from the origin in any direction. Dynamics and rewards are deterministic; every
    episode is truncated after `episode_length` steps.
    """

    episode_length: int = 20
    """Steps per episode."""

    name = "point-mass"
    task_arguments: ClassVar = {"goal": 2}

    def __post_init__(self) -> None:
        """Refuse episodes without a step."""
        if self.episode_length < 1:
            raise UserError(f"episode_length={self.episode_length} is not possible; use 1 or more")

    def spec(self) -> EnvSpec:
        """See `TaskFamily.spec`."""
        plane = spaces.Box(-LARGEST, LARGEST, (2,), np.float32)
        return EnvSpec(plane, spaces.Box(-1.0, 1.0, (2,), np.float32), self.episode_length)

    def sample(self, num_tasks: int, split: Split, generator: torch.Generator) -> Tensor:
        """Draw goals, uniform in angle and distance, whatever the split; (num_tasks, 2) float32."""
        angle, distance = torch.rand(2, num_tasks, generator=generator, device=generator.device)
        angle, distance = math.tau * angle, NEAREST + (FARTHEST - NEAREST) * distance
        return torch.stack((distance * angle.cos(), distance * angle.sin()), dim=1)

    def scene(self) -> Plane:
        """See `TaskFamily.scene`."""
        return Plane((-LARGEST, -LARGEST), (LARGEST, LARGEST))

    def marks(self, task: Tensor) -> tuple[Mark, ...]:
        """The goal, and how far it is felt; see `TaskFamily.marks`."""
        x, y = task.tolist()
        return (Mark("goal", x, y, REACH),)

    def place(self, observation: Tensor) -> Tensor:
        """See `TaskFamily.place`: it is what is observed."""
        return observation

    def make(self, tasks: Tensor, generator: torch.Generator) -> "PointMassEnv":
        """See `TaskFamily.make`."""
        return PointMassEnv(self, tasks, generator)

    def check_tasks(self, tasks: Tensor) -> None:
        """Refuse tasks that are not goals in the plane."""
        if tasks.ndim != 2 or tasks.shape[1] != 2 or tasks.shape[0] == 0:
            raise UserError(
                f"tasks of shape {tuple(tasks.shape)} do not fit {self.name}; give the goals' x "
                "and y as (N, 2) with N >= 1"
            )
        wrong = (~(tasks.abs() <= LARGEST).all(dim=1)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise UserError(
                f"tasks[{row}] has its goal at {tuple(tasks[row].tolist())}; coordinates must lie "
                f"in [-{LARGEST}, {LARGEST}]"
            )


class PointMassEnv(BatchedEnv):
    """The planes of one `PointMass`.

    The observation is one's own (x, y), (N, 2) float32; actions are (N, 2) float32.

    Args:
        family: Says how long episodes are.
        tasks: (N, 2), the goals.
        generator: Draws nothing.
    """

    def __init__(self, family: PointMass, tasks: Tensor, generator: torch.Generator) -> None:
        family.check_tasks(tasks)
        super().__init__(family, tasks.float(), generator)
        self._place = torch.zeros_like(self.tasks)
        self._time = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def reset(self) -> Tensor:
        """Begin a new episode everywhere; returns observations (N, 2)."""
        self._place.zero_()
        self._time.zero_()
        return self._place.clone()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, be paid, and begin a new episode where this one is over; see `BatchedEnv.step`."""
        length = action.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1.0)
        place = (self._place + STEP * action / length).clamp(-LARGEST, LARGEST)
        self.final_observation = place
        reward = _paid((place - self.tasks).square().sum(dim=1))
        self._time += 1
        truncated = self._time == self.episode_length
        self._time.masked_fill_(truncated, 0)
        self._place.copy_(place.masked_fill(truncated[:, None], 0.0))
        return self._place.clone(), reward, torch.zeros_like(truncated), truncated

    def optimal_return(self) -> Tensor:
        """Of going straight to the goal and staying there, which no step can better."""
        steps = torch.arange(1, self.episode_length + 1, device=self.device)
        distance = self.tasks.square().sum(dim=1, keepdim=True).sqrt() - STEP * steps  # (N, T)
        return _paid(distance.clamp(min=0.0).square()).sum(dim=1)

    def expert(self, observation: Tensor, phase: Tensor | None = None) -> Tensor:
        """Straight to the goal, with a deviation of 0.05 of a step, (N, 4)."""
        way = (self.tasks - observation) / STEP
        way = way / way.square().sum(dim=-1, keepdim=True).sqrt().clamp(min=1.0)
        return torch.cat((way, torch.full_like(way, math.log(EXPERT_STD))), dim=-1)

    def render_text(self, observation: Tensor, index: int) -> str:
        """Where one is, and where the goal is, which is hidden."""
        (x, y), (goal_x, goal_y) = observation[index].tolist(), self.tasks[index].tolist()
        return f"at ({x:.2f}, {y:.2f}), goal at ({goal_x:.2f}, {goal_y:.2f})\n"

    def render_picture(self, observation: Tensor, index: int) -> np.ndarray:
        """See `draw_plane`."""
        at, goal = observation[index].tolist(), self.tasks[index].tolist()
        return draw_plane(LARGEST, (at[0], at[1]), (goal[0], goal[1]), REACH)


def _paid(squared_distance: Tensor) -> Tensor:
    """What a step pays that ends so far from the goal."""
    return (-squared_distance / REACH**2).exp()
