"""Figures drawn from returns: means, intervals, regret."""

import numpy as np
import torch
from torch import Tensor


def bootstrap_interval(
    returns: Tensor, groups: Tensor, *, confidence: float = 0.95, resamples: int = 2000
) -> np.ndarray:
    """Percentile bootstrap of the mean return of each episode.

    Whole groups are resampled, not single rollouts: rollouts of one task resemble each other,
    and counting them as independent would make the interval too narrow.

    Args:
        returns: (N, episodes).
        groups: (N,) int64, the task of each rollout.
        confidence: Of the interval.
        resamples: Bootstrap samples.

    Returns:
        (2, episodes), lower and upper end.
    """
    values = returns.double().numpy()
    _, index, sizes = np.unique(groups.numpy(), return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, index, values)
    draws = np.random.default_rng(0).integers(len(sizes), size=(resamples, len(sizes)))
    weights = np.stack([np.bincount(draw, minlength=len(sizes)) for draw in draws])
    means = (weights @ sums) / (weights @ sizes)[:, None]
    tail = 50.0 * (1.0 - confidence)
    interval: np.ndarray = np.percentile(means, [tail, 100.0 - tail], axis=0)
    return interval


def bandit_regret(means: Tensor, actions: Tensor) -> Tensor:
    """Expected reward missed per pull by not choosing the best arm.

    Args:
        means: Arm means, (N, K).
        actions: Arms chosen, (N, T) int64.

    Returns:
        (N, T) float32; its sum over T is the pseudo-regret.
    """
    return means.max(dim=1, keepdim=True).values - torch.gather(means, 1, actions)
