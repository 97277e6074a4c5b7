"""Episodes of another learner, which the frozen model finds at the beginning of its context."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastad.acting.interact import Transition


@dataclass(frozen=True)
class Prompt:
    """Whole episodes on the tasks of `N` environments, which the model takes for its own.

    Attributes:
        steps: (N, T, ...), on the model's device.
        lengths: (N,) int64, how many steps each environment is shown: its last of the `T`.
        num_episodes: In each environment.
        told: What they are, such as "episodes 0:5 of the source".
    """

    steps: Transition
    lengths: Tensor
    num_episodes: int
    told: str

    @property
    def num_steps(self) -> int:
        """`T`, of the longest."""
        return self.steps.reward.shape[1]

    @property
    def begins(self) -> Tensor:
        """The first step that each environment is shown, (N,) int64."""
        return self.num_steps - self.lengths

    @property
    def mean_return(self) -> float:
        """Per episode, over all environments."""
        steps = torch.arange(self.num_steps, device=self.lengths.device)
        shown = steps >= self.begins.unsqueeze(1)
        total = (self.steps.reward * shown).sum().item()
        return total / (len(self.lengths) * self.num_episodes)
