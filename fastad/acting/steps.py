"""What the model is shown at each step: one vocabulary for training windows and for rollouts."""

from typing import NamedTuple

from torch import Tensor


class Steps(NamedTuple):
    """`T` consecutive environment steps of `B` sequences, as the model reads them.

    At the first step of a context there is no previous action: it is `num_actions`, one past
    the last, and the previous reward is 0.
    """

    observation: Tensor  # (B, T, ...) in the observation space's own units
    previous_action: Tensor  # (B, T) int64 in [0, num_actions]; num_actions means "none"
    previous_reward: Tensor  # (B, T) float32, raw
    episode_start: Tensor  # (B, T) bool, true at the first step of an episode
    episode_step: Tensor  # (B, T) int64, steps since the episode began, from 0
