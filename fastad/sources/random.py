"""No learner at all: actions by chance, the floor that everything is compared with."""

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv
from fastad.sources.base import Source
from fastad.sources.visited import Visited


class Random(Source):
    """Acts by chance, in any environment, and never learns.

    That is uniformly among choices; in a box, by a Gaussian around its centre with a deviation of
    half its width, clipped to it.

    Args:
        env: Any.
        num_episodes: Length of the histories.
        generator: Draws the actions.
    """

    name = "random"

    def __init__(self, env: BatchedEnv, *, num_episodes: int, generator: torch.Generator) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self._policy = self.actions.chance(self.num_learners, self.device)

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Every environment suits."""
        return True

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """See `Source.act`."""
        return self.draw(self._policy), self._policy

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """There is nothing to learn."""

    def would_act(self, visited: Visited) -> Tensor:
        """See `Source.would_act`."""
        return self._policy[:, None].expand(*visited.phase.shape, -1)
