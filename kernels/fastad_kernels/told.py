"""What a model is told of environments before they act: how the step before went."""

from typing import Literal

import torch
from torch import Tensor

Implementation = Literal["auto", "reference"]


class Told:
    """The step before, of `N` environments, and where in its episode each one is.

    Tensors are updated in place and never others, so that a step can be captured in a CUDA graph,
    and so that who knows where they lie need not look again.

    Args:
        action: (N, ...).
        reward: (N,) float32.
        start: Whether an episode begins, (N,) bool.
        step: Steps since the episode began, (N,) int64.
    """

    def __init__(self, action: Tensor, reward: Tensor, start: Tensor, step: Tensor) -> None:
        self._action, self._reward, self._start, self._step = action, reward, start, step
        self._one = torch.ones_like(step)  # a number that PyTorch need not make a tensor of

    @property
    def action(self) -> Tensor:
        """What was done, (N, ...)."""
        return self._action

    @property
    def reward(self) -> Tensor:
        """What it gave, (N,) float32."""
        return self._reward

    @property
    def start(self) -> Tensor:
        """Whether an episode begins, (N,) bool."""
        return self._start

    @property
    def step(self) -> Tensor:
        """Steps since the episode began, (N,) int64."""
        return self._step

    def take(self, action: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor) -> None:
        """Note how a step went: what was done, (N, ...), and what came of it, (N,) each.

        Raises:
            ValueError: If it ended for another number of environments.
        """
        if not terminated.shape == truncated.shape == self.start.shape:
            # PyTorch would give `start` another size, and other memory.
            raise ValueError(
                f"terminated {tuple(terminated.shape)} and truncated {tuple(truncated.shape)} must "
                f"be {tuple(self.start.shape)}"
            )
        self.action.copy_(action)
        self.reward.copy_(reward)
        ended = torch.logical_or(terminated, truncated, out=self.start)
        self.step.add_(self._one).masked_fill_(ended, 0)


def make_told(
    action: Tensor,
    reward: Tensor,
    start: Tensor,
    step: Tensor,
    *,
    impl: Implementation = "reference",
) -> Told:
    """See `Told`; "auto" takes the C++ kernel where it can be used, which does the same."""
    if impl == "auto" and action.is_cpu and action.dtype == torch.int64 and action.ndim == 1:
        from fastad_kernels import native

        if native.why_unavailable() is None:
            from fastad_kernels.native.told import NativeTold

            return NativeTold(action, reward, start, step)
    return Told(action, reward, start, step)
