"""What the model is shown at each step: one vocabulary for training windows and for rollouts."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Steps(NamedTuple):
    """`T` consecutive environment steps of `B` sequences, as the model reads them.

    At the first step of a context there is no previous action: it is `none` of the actions'
    distribution, and the previous reward is 0.
    """

    observation: Tensor  # (B, T, ...) in the observation space's own units
    # (B, T) int64, of Discrete actions; (B, T, d) int64 or float32 of others. See `fastad.actions`.
    previous_action: Tensor
    previous_reward: Tensor  # (B, T) float32, raw
    episode_start: Tensor  # (B, T) bool, true at the first step of an episode
    episode_step: Tensor  # (B, T) int64, steps since the episode began, from 0
    # (B, T) float32, raw: rewards of the episode from this step on; None for models that read none
    return_to_go: Tensor | None = None
    # (B, T, ...), where the previous action was taken; None for models whose layout needs none
    previous_observation: Tensor | None = None
    # (B, T) bool, true where a context of its own begins, which sees nothing of what stands before
    # it in the row; None where each row is one context
    context_start: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Steps":
        """The same change of every field that is there."""
        return Steps(*(None if field is None else change(field) for field in self))  # type: ignore[arg-type]

    def part(self, first: int, last: int, rows: slice | Tensor = slice(None)) -> "Steps":
        """Steps [first, last) of some sequences."""
        return self.map(lambda field: field[rows, first:last])

    @classmethod
    def join(cls, parts: Iterable["Steps"], dim: int = 1) -> "Steps":
        """Parts one after another, along steps (1) or sequences (0)."""
        fields = zip(*parts, strict=True)
        joined = (None if field[0] is None else torch.cat(field, dim=dim) for field in fields)
        return cls(*joined)  # type: ignore[arg-type]
