"""Win-stay, a source in one file as CONTRIBUTING.md says how to add one."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.envs.base import BatchedEnv
from fastad.sources.base import number
from fastad.sources.tabular import Experience, TabularSource


class WinStay(TabularSource):
    """Acts at random until an episode pays, then as it last acted in each of its states.

    Args:
        env: A finite MDP.
        num_episodes: Length of the histories.
        generator: Draws the actions.
        epsilon: Probability of any action whatever, once an episode has paid.
    """

    name = "win-stay"

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        epsilon: float = 0.1,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self.epsilon = number("epsilon", epsilon, low=0.0, high=1.0)
        shape = (self.num_learners * self.num_states,)
        self._last = torch.full(shape, -1, device=self.device)  # the action of each state
        self._kept = torch.full(shape, -1, device=self.device)

    def policy(self, cell: Tensor) -> Tensor:
        kept = self._kept.index_select(0, self.state)
        again = F.one_hot(kept.clamp(min=0), self.num_actions).float()
        known = (kept >= 0).float() * (1 - self.epsilon)
        return again * known[:, None] + (1 - known[:, None]) / self.num_actions

    def learn(self, experience: Experience) -> None:
        self._last.index_copy_(0, experience.state, experience.action)
        paid = (experience.reward > 0)[:, None]
        kept = self._kept.view(self.num_learners, -1)
        kept.copy_(torch.where(paid, self._last.view_as(kept), kept))
