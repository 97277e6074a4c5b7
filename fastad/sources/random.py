"""No learner at all: uniformly random actions, the floor that everything is compared with."""

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv
from fastad.sources.base import Source
from fastad.sources.visited import Visited


class Random(Source):
    """Acts uniformly at random, in any environment, and never learns.

    Args:
        env: Any.
        num_episodes: Length of the histories.
        generator: Draws the actions.
    """

    name = "random"

    def __init__(self, env: BatchedEnv, *, num_episodes: int, generator: torch.Generator) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        shape = (self.num_learners, self.num_actions)
        self._probs = torch.full(shape, 1.0 / self.num_actions, device=self.device)

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Every environment suits."""
        return True

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """See `Source.act`."""
        return self.draw(self._probs), self._probs

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """There is nothing to learn."""

    def would_act(self, visited: Visited) -> Tensor:
        """See `Source.would_act`."""
        return self._probs[:, None].expand(*visited.phase.shape, -1)
