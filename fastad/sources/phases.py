"""What learners are told where an observation alone is not Markov: how often the episode paid."""

import torch
from torch import Tensor


class Phases:
    """The phase that each of `n` environments is in, see `Rules`.

    Args:
        num_envs: `n`.
        num_phases: 1 where the observation alone is Markov; then the phase is always 0.
        device: Of the environments.
    """

    def __init__(self, num_envs: int, num_phases: int, device: torch.device) -> None:
        self.num_phases = num_phases
        self.now = torch.zeros(num_envs, dtype=torch.int64, device=device)  # (n,)

    @property
    def fact(self) -> str:
        """What a learner that sees the phase is told; empty where there is but one."""
        if self.num_phases == 1:
            return ""
        often = "once" if self.num_phases == 2 else f"{self.num_phases - 1} times"
        return f"that an episode pays {often} at most"

    def after(self, reward: Tensor) -> Tensor:
        """The phases (n,) that a step leads to which gives `reward` (n,)."""
        if self.num_phases == 1:
            return self.now
        return (self.now + (reward != 0)).clamp_(max=self.num_phases - 1)

    def move_on(self, phase: Tensor, ended: Tensor) -> None:
        """Be in `phase` (n,), or in the first where an episode `ended` (n,)."""
        if self.num_phases > 1:
            self.now = phase.masked_fill(ended, 0)
