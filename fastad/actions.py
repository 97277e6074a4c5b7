"""Distributions over actions, one per kind of action space: one choice for all who need one.

A source acts by one, histories store it, a model's head gives its parameters, and a loss compares
the two. What a head gives are parameters, `params`; what histories store is a `policy`.
"""

import math
from typing import Any, Protocol

import fastad_kernels
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError

POLICY_TOLERANCE = 5e-3  # of a stored policy's defect: float16 keeps 11 bits of every probability


class ActionDistribution(Protocol):
    """A family of distributions over the actions of one space.

    Attributes:
        num_params: Numbers in `params` and in a policy, per step.
        policy_dtype: That histories store policies in.
        policy_limits: The least and the largest number in a policy.
        rule: What a policy must be, in words.
    """

    num_params: int
    policy_dtype: np.dtype[Any]
    policy_limits: tuple[float, float]
    rule: str

    def draw(self, params: Tensor, generator: torch.Generator, *, greedy: bool = False) -> Tensor:
        """Draw actions.

        Args:
            params: (N, num_params) float32.
            generator: On the device of `params`.
            greedy: Take the most probable action instead.

        Returns:
            (N, ...), as the environment takes them.
        """
        ...

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Logarithm of the probability, or density, of actions (..., *shape); (...)."""
        ...

    def policy(self, params: Tensor) -> Tensor:
        """What histories store of the distribution with these parameters, same shape."""
        ...

    def divergence(self, policy: Tensor, params: Tensor) -> Tensor:
        """Kullback-Leibler divergence of `params` from a stored policy, both (..., num_params).

        Returns:
            (...), 0 where they are the same distribution.
        """
        ...

    def defect(self, policy: np.ndarray) -> np.ndarray:
        """How far each row (..., num_params) within the limits is from being a policy; (...)."""
        ...


class Categorical:
    """Over `num_actions` actions: `params` are logits, a policy is probabilities."""

    policy_dtype: np.dtype[Any] = np.dtype(np.float16)
    policy_limits = 0.0, 1.0 + POLICY_TOLERANCE
    rule = "probabilities must not be negative and must sum to 1"

    def __init__(self, num_actions: int) -> None:
        self.num_params = num_actions

    def draw(self, params: Tensor, generator: torch.Generator, *, greedy: bool = False) -> Tensor:
        """See `ActionDistribution.draw`; (N,) int64."""
        if greedy:
            return params.argmax(dim=-1)
        uniform = torch.rand((len(params), 1), generator=generator, device=params.device)
        return fastad_kernels.draw(params.softmax(dim=-1), uniform)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """See `ActionDistribution.log_prob`."""
        return params.log_softmax(dim=-1).gather(-1, action[..., None]).squeeze(-1)

    def policy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.policy`."""
        return params.softmax(dim=-1)

    def divergence(self, policy: Tensor, params: Tensor) -> Tensor:
        """See `ActionDistribution.divergence`."""
        return F.kl_div(params.log_softmax(dim=-1), policy, reduction="none").sum(dim=-1)

    def defect(self, policy: np.ndarray) -> np.ndarray:
        """See `ActionDistribution.defect`: of the sum."""
        wide = policy.astype(np.float32) if policy.dtype.itemsize < 4 else policy
        # einsum sums in the wide dtype, several times as fast as `sum` on short rows.
        defect: np.ndarray = np.abs(np.einsum("...a->...", wide) - 1)
        return defect


class DiagonalGaussian:
    """Over vectors in a box: `params` and policy are d means, then d log standard deviations.

    Draws are clipped to the box, as Gymnasium's environments want them; densities are those of
    the Gaussian before clipping.

    Args:
        low: (d,) least action.
        high: (d,) largest action.
    """

    policy_dtype: np.dtype[Any] = np.dtype(np.float32)
    policy_limits = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)
    rule = "means and log standard deviations must be finite"

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low, self.high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (low, high))
        self.num_params = 2 * self.low.numel()

    def draw(self, params: Tensor, generator: torch.Generator, *, greedy: bool = False) -> Tensor:
        """See `ActionDistribution.draw`; (N, d) float32."""
        mean, log_std = params.chunk(2, dim=-1)
        if not greedy:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            mean = mean + noise * log_std.exp()
        return mean.clamp(self.low.to(mean.device), self.high.to(mean.device))

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """See `ActionDistribution.log_prob`."""
        mean, log_std = params.chunk(2, dim=-1)
        scaled = (action - mean) * (-log_std).exp()
        return (-0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def policy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.policy`."""
        return params

    def divergence(self, policy: Tensor, params: Tensor) -> Tensor:
        """See `ActionDistribution.divergence`."""
        (mean, log_std), (our_mean, our_log_std) = policy.chunk(2, -1), params.chunk(2, -1)
        ratio = log_std - our_log_std
        distance = (mean - our_mean) * (-our_log_std).exp()
        # expm1: near 0, where the two are alike, nothing cancels.
        return (0.5 * torch.expm1(2 * ratio) - ratio + 0.5 * distance.square()).sum(dim=-1)

    def defect(self, policy: np.ndarray) -> np.ndarray:
        """See `ActionDistribution.defect`: all are policies."""
        return np.zeros(policy.shape[:-1], np.float32)


def distribution_over(space: spaces.Space[Any]) -> Categorical | DiagonalGaussian:
    """The distribution over the actions of a space.

    Raises:
        UserError: If there is none.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Categorical(int(space.n))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == np.float32:
        return DiagonalGaussian(space.low, space.high)
    raise UserError(
        f"action_space={space} is not supported; use a Discrete space that starts at 0, or a Box "
        "of float32 vectors"
    )
