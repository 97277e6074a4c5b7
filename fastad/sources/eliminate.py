"""A planner for Watermaze that knows its pose and how strokes move it, and seeks the platform."""

import math

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.envs.swimming import Swimming, lattice
from fastad.envs.watermaze import PLATFORM_RADIUS, PLATFORM_REACH, WatermazeEnv
from fastad.sources.base import Source, number
from fastad.sources.visited import Visited


class Eliminate(Source):
    """Rules out where the platform cannot be, and stays on it once it is found.

    Of a lattice of places it keeps those that agree with all rewards so far. It swims to where
    many of them are near each other and not far away, and, after the first reward, to the middle
    of those that are left.

    Args:
        env: A Watermaze.
        num_episodes: Length of the histories.
        generator: Draws the actions.
        pitch: Between the places, in radii of the pool.
        detour: How much way, in radii of the pool, counts as little as none: the larger, the
            farther it swims for many places at once.
    """

    name = "eliminate"
    knows = "its pose, the movement rules and how large the platform is, not where"

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        pitch: float = 0.07,
        detour: float = 0.15,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        assert isinstance(env, WatermazeEnv), "make_source checks that the source fits"
        self._env = env
        self._swimming = Swimming(env.device)
        pitch = number("pitch", pitch, low=0.02, high=0.2)
        self._detour = number("detour", detour, low=0.01)
        self._spread = pitch / math.sqrt(3) + 1e-5  # no point is farther from all places
        self._places = lattice(pitch, PLATFORM_REACH + self._spread).to(env.device)  # (P, 2)
        self._together = (_distances(self._places, self._places) <= 0.9 * PLATFORM_RADIUS).float()
        shape = (self.num_learners, len(self._places))
        self._possible = torch.ones(shape, dtype=torch.bool, device=self.device)
        self._is_found = torch.zeros(self.num_learners, dtype=torch.bool, device=self.device)

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Watermaze alone."""
        return isinstance(env, WatermazeEnv)

    def policy(self, pose: Tensor) -> Tensor:
        """Action distributions (N, A) in poses (N, 3), as the learners are now."""
        possible = self._possible.float()
        middle = possible @ self._places / possible.sum(dim=1, keepdim=True)
        # The possible place nearest to the middle: once it is reached in vain, it is none.
        best = (_distances(middle, self._places) + 9.0 * ~self._possible).argmin(dim=1)
        seeking = (~self._is_found).nonzero()[:, 0]
        worth = possible[seeking] @ self._together
        worth /= _distances(pose[seeking, :2], self._places).add_(self._detour)
        best[seeking] = worth.argmax(dim=1)
        return self._swimming.towards(pose, self._places[best])

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions from the policy; the pose is the environment's own."""
        probs = self.policy(self._env.pose)
        return self.draw(probs), probs

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Keep the places that agree with the reward: near any that was, and not near others.

        A place stands for all that is nearer to it than to others. One is always left.
        """
        distance = _distances(self._env.final_pose[:, :2], self._places)
        is_rewarded = transition.reward[:, None] > 0
        may_be_near = distance <= PLATFORM_RADIUS + self._spread
        is_near = distance <= PLATFORM_RADIUS - self._spread
        self._possible &= torch.where(is_rewarded, may_be_near, ~is_near)
        self._is_found |= is_rewarded[:, 0]

    def would_act(self, visited: Visited) -> Tensor:
        """See `Source.would_act`; from poses, which must be what the environment stores."""
        if self._env.family.store != "pose":
            raise UserError(
                "store='frames' leaves no poses of earlier steps, which eliminate needs to look "
                "ahead; use store='pose', or leave out final from the labels"
            )
        return torch.stack([self.policy(pose) for pose in visited.observation.unbind(1)], dim=1)


def _distances(points: Tensor, places: Tensor) -> Tensor:
    """From points (N, 2) to places (P, 2), (N, P)."""
    across, up = points[:, :1] - places[:, 0], points[:, 1:] - places[:, 1]
    return across.square_().add_(up.square_()).sqrt_()
