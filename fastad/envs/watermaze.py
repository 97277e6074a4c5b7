"""Watermaze: a round pool seen by oneself, and a hidden platform (arXiv 2210.14215, section 4).

After Morris's water maze: only the reward tells where the platform is, and only the landmarks on
the wall tell where one is oneself. The pool's radius is 1 and its centre the origin. Headings are
angles from the x axis, counter-clockwise from above.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.envs.base import BatchedEnv
from fastad.envs.family import EnvSpec, Split, TaskFamily
from fastad.envs.pictures import beside, draw_pool, enlarged, write_pool
from fastad.envs.raycaster import raycaster
from fastad.envs.scene import Disc, Mark
from fastad.envs.scenery import COLOURS
from fastad.envs.shortest_swim import best_returns
from fastad.envs.swimming import REACH, Swimming, lattice, uniform_in_disc

Store = Literal["pose", "frames"]

PLATFORM_RADIUS = 0.15
PLATFORM_REACH = 0.8  # of the platform's centre from the pool's
MIN_SIZE, MAX_SIZE = 8, 192  # of frames; at 192 x 192 their table of strips takes 425 MB
# Codes to learn a pose by (auxiliary): places, as far apart and as wide, and headings.
PLACE_PITCH, PLACE_REACH, PLACE_WIDTH = 0.25, 0.95, 0.15
NUM_HEADINGS, HEADING_SHARPNESS = 16, 8.0


@dataclass(frozen=True)
class Watermaze(TaskFamily):
    """A round pool seen from within, whose hidden platform pays 1 on every step that ends on it.

    A task is the (x, y) of the platform's centre, float32, no farther than 0.8 from the centre of
    the pool. Episodes start anywhere, in any direction, and are truncated after `episode_length`
    steps. Agents see frames; what is stored by default is the pose they are drawn from, which is
    12 bytes instead of 20,736 of a frame of 72 x 96.
    """

    height: int = 72
    """Rows of pixels in a frame."""
    width: int = 96
    """Columns of pixels in a frame."""
    episode_length: int = 50
    """Steps per episode."""
    store: Store = "pose"
    """What histories hold: "pose", of which frames are drawn when they are shown, or "frames"."""

    name = "watermaze"
    task_arguments: ClassVar = {"platform": 2}
    action_names: ClassVar = (
        "forward", "back", "left", "right", "turn left", "turn right", "forward and left",
        "forward and right",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse frames that cannot be drawn, and episodes without a step."""
        for field in ("height", "width"):
            if not MIN_SIZE <= getattr(self, field) <= MAX_SIZE:
                raise UserError(
                    f"{field}={getattr(self, field)} is not possible; "
                    f"use {MIN_SIZE} to {MAX_SIZE} pixels"
                )
        if self.episode_length < 1:
            raise UserError(f"episode_length={self.episode_length} is not possible; use 1 or more")
        if self.store not in get_args(Store):
            raise unknown("store", self.store, get_args(Store))

    def spec(self) -> EnvSpec:
        """See `TaskFamily.spec`."""
        frames = spaces.Box(0, 255, (self.height, self.width, 3), np.uint8)
        low, high = (np.array(bound, np.float32) for bound in ((-1, -1, 0), (1, 1, math.tau)))
        poses = spaces.Box(low, high, dtype=np.float32)
        actions = spaces.Discrete(len(Swimming.STROKES))
        if self.store == "frames":
            return EnvSpec(frames, actions, self.episode_length)
        return EnvSpec(poses, actions, self.episode_length, shown_space=frames)

    def sample(self, num_tasks: int, split: Split, generator: torch.Generator) -> Tensor:
        """Draw platforms uniformly from a disc, whatever the split; (num_tasks, 2) float32."""
        return uniform_in_disc(num_tasks, PLATFORM_REACH, generator)

    def scene(self) -> Disc | None:
        """The pool from above; None where frames are stored, which do not tell where one is."""
        return Disc(1.0) if self.store == "pose" else None

    def marks(self, task: Tensor) -> tuple[Mark, ...]:
        """The platform; see `TaskFamily.marks`."""
        x, y = task.tolist()
        return (Mark("platform", x, y, PLATFORM_RADIUS),)

    def place(self, observation: Tensor) -> Tensor | None:
        """See `TaskFamily.place`: a pose, heading and all."""
        return observation if self.store == "pose" else None

    def make(self, tasks: Tensor, generator: torch.Generator) -> "WatermazeEnv":
        """See `TaskFamily.make`."""
        return WatermazeEnv(self, tasks, generator)

    def show(self, observation: Tensor) -> Tensor:
        """The frames seen from poses (..., 3), (..., height, width, 3) uint8; frames as they are.

        A pose gives the same frame in every batch, and on every device.
        """
        if self.store == "frames":
            return observation
        return self.frames(observation)

    def frames(self, pose: Tensor) -> Tensor:
        """The frames seen from poses (..., 3), (..., height, width, 3) uint8."""
        drawn = raycaster(self.height, self.width, pose.device).render(pose.reshape(-1, 3))
        return drawn.view(*pose.shape[:-1], *drawn.shape[1:])

    def auxiliary(self) -> dict[str, int] | None:
        """Places and headings; None where poses are not stored. See `TaskFamily.auxiliary`."""
        if self.store == "frames":
            return None
        return {"place": len(_places(torch.device("cpu"))), "heading": NUM_HEADINGS}

    def auxiliary_targets(self, observation: Tensor) -> dict[str, Tensor]:
        """Soft codes of poses (..., 3): more of what is nearer. See `TaskFamily`."""
        if self.store == "frames":
            return super().auxiliary_targets(observation)
        offset = observation[..., None, :2] - _places(observation.device)
        place = offset.square().sum(dim=-1) / (-2 * PLACE_WIDTH**2)
        headings = torch.arange(NUM_HEADINGS, device=observation.device)
        turned = observation[..., 2:] - headings * (math.tau / NUM_HEADINGS)
        heading = HEADING_SHARPNESS * turned.cos()
        return {"place": place.softmax(dim=-1), "heading": heading.softmax(dim=-1)}

    def check_tasks(self, tasks: Tensor) -> None:
        """Refuse tasks that are not platforms in the pool."""
        if tasks.ndim != 2 or tasks.shape[1] != 2 or tasks.shape[0] == 0:
            raise UserError(
                f"tasks of shape {tuple(tasks.shape)} do not fit {self.name}; "
                "give the platforms' x and y as (N, 2) with N >= 1"
            )
        distance = tasks.double().square().sum(dim=1).sqrt()
        wrong = (~(distance <= PLATFORM_REACH + 1e-6)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            x, y = tasks[row].tolist()
            raise UserError(
                f"tasks[{row}] has its platform at ({x:g}, {y:g}), {distance[row]:.3g} from the "
                f"centre of the pool; it must be within {PLATFORM_REACH}"
            )


class WatermazeEnv(BatchedEnv):
    """The pools of one `Watermaze`.

    Observations are poses, (N, 3) float32: x, y and heading; or the frames seen from them, see
    `Watermaze.store`. Actions are the strokes of `Swimming`.

    Args:
        family: Says what is observed, and how long episodes are.
        tasks: (N, 2), the platforms' centres.
        generator: Draws the poses to start from.
    """

    family: Watermaze

    def __init__(self, family: Watermaze, tasks: Tensor, generator: torch.Generator) -> None:
        family.check_tasks(tasks)
        super().__init__(family, tasks.float(), generator)
        self._stores_frames = family.store == "frames"
        self._swimming = Swimming(self.device)
        self._pose = torch.zeros((self.num_envs, 3), device=self.device)
        self._final_pose = torch.zeros_like(self._pose)
        self._time = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._never = torch.zeros_like(self._time, dtype=torch.bool)
        # All episodes end together: the host can count, and knows what need not be drawn twice.
        self._is_tracked, self._elapsed = True, 0
        self.reset()

    @property
    def pose(self) -> Tensor:
        """Where the swimmers are, (N, 3) float32, after auto-reset; privileged."""
        return self._pose.clone()

    @property
    def final_pose(self) -> Tensor:
        """Where the last step really ended, (N, 3) float32; privileged."""
        return self._final_pose.clone()

    def reset(self) -> Tensor:
        """Begin a new episode everywhere; returns observations (N, ...)."""
        self._elapsed = 0
        self._time.zero_()
        return self._observed(self._pose.copy_(self._draw_start()))

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take one stroke everywhere; see `BatchedEnv.step`."""
        self._final_pose.copy_(self._swimming(self._pose, action))
        self._time += 1
        truncated = self._time == self.episode_length
        # Starts are drawn at every step, needed or not, so that tracked or not draws the same.
        self._pose.copy_(torch.where(truncated[:, None], self._draw_start(), self._final_pose))
        self._time.masked_fill_(truncated, 0)
        self._elapsed += 1
        offset = self._final_pose[:, :2] - self.tasks
        reward = (offset.square().sum(dim=1) <= PLATFORM_RADIUS**2).float()
        self.final_observation = self._observed(self._final_pose)
        observation = self.final_observation
        if not self._is_tracked or self._elapsed == self.episode_length:
            self._elapsed = 0
            observation = self._observed(self._pose)
        return observation, reward, self._never, truncated

    def untrack(self) -> None:
        """See `BatchedEnv.untrack`."""
        self._is_tracked = False

    def optimal_return(self) -> Tensor:
        """See `best_returns`; (N,) float32."""
        return best_returns(self.tasks, PLATFORM_RADIUS, self.episode_length)

    def expert(self, observation: Tensor, phase: Tensor | None = None) -> Tensor:
        """Swim to the platform and stay, see `Swimming.towards`: 99 % of the optimum, not all.

        Raises:
            UserError: If asked for another than the present step where frames are stored: there is
                no telling a pose from its frame.
        """
        if self._stores_frames and phase is not None:
            raise UserError(
                "store='frames' leaves no poses of earlier steps, which the expert of watermaze "
                "needs; use store='pose'"
            )
        return self._swimming.towards(self._pose_of(observation), self.tasks)

    def render_text(self, observation: Tensor, index: int) -> str:
        """The pool from above: an arrow for oneself, and the platform."""
        return write_pool(self._platform(index), self._pose_of(observation)[index].tolist())

    def render_picture(self, observation: Tensor, index: int) -> np.ndarray:
        """What is seen, and beside it the pool from above."""
        pose = self._pose_of(observation)[index].cpu()
        frame = enlarged(self.family.frames(pose).numpy())
        landmarks = [tuple(round(255 * part) for part in colour) for colour in COLOURS]
        return beside(frame, draw_pool(len(frame), self._platform(index), pose.tolist(), landmarks))

    def _platform(self, index: int) -> tuple[float, float, float]:
        """Where the platform of environment `index` is, and its radius."""
        x, y = self.tasks[index].tolist()
        return x, y, PLATFORM_RADIUS

    def _observed(self, pose: Tensor) -> Tensor:
        """What is observed from poses, in a tensor that nothing changes afterwards."""
        return self.family.frames(pose) if self._stores_frames else pose.clone()

    def _pose_of(self, observation: Tensor) -> Tensor:
        """The poses behind observations of the present step, or of where the last one ended."""
        if not self._stores_frames:
            return observation
        is_final = observation is getattr(self, "final_observation", None)
        return self._final_pose if is_final else self._pose

    def _draw_start(self) -> Tensor:
        """Poses anywhere that one can swim, in any direction, (N, 3)."""
        # Headings first: from a generator as fresh as that of the tasks, places would be theirs.
        heading = self._swimming.draw_heading(self.num_envs, self.generator)
        return torch.cat((uniform_in_disc(self.num_envs, REACH, self.generator), heading), dim=1)


@cache
def _places(device: torch.device) -> Tensor:
    """Where the codes of places are, (codes, 2)."""
    return lattice(PLACE_PITCH, PLACE_REACH).to(device)
