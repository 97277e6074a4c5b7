"""Distributions over vectors in a box: a Gaussian for each number, clipped or squashed to it."""

import math
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.actions.categorical import NO_MIXTURE
from fastad.base.errors import UserError

# Of log standard deviations, in half widths of the box. Below, a policy that is nearly certain
# would count for everything in a loss; above, every draw lies outside of the box.
LEAST_LOG_STD, LARGEST_LOG_STD = -4.0, 2.0
BOUNDLESS = 1e30  # bounds as large mean that there are none
EDGE = 1e-6  # actions nearer to the box's faces than this are as if they were there


def is_bounded(low: np.ndarray, high: np.ndarray) -> bool:
    """Whether bounds tell the size of what lies between them, rather than of a float."""
    return bool((np.maximum(np.abs(low), np.abs(high)) < BOUNDLESS).all())


class _Box(NamedTuple):
    """A box on one device, (d,) each."""

    low: Tensor
    high: Tensor
    centre: Tensor
    half: Tensor  # of its widths
    unit_centre: Tensor  # of what policies count from
    unit: Tensor  # of what they are in


class DiagonalGaussian:
    """Over vectors in a box: a policy is d means, then d log standard deviations.

    `params` are the same in half widths of the box from its centre, where it has both, so that a
    model's head gives numbers of one size whatever the units; log standard deviations beyond
    limits are as those at the limits.

    A draw beyond the box is clipped to it, as Gymnasium's environments want it, and densities are
    those before clipping. Or, squashed, the policy is that of a number u whose hyperbolic tangent
    is the place in the box (Haarnoja et al. 2018, arXiv 1801.01290, app. C): of half widths.

    Args:
        low: (d,) least action.
        high: (d,) largest action.
        squash: Whether draws are squashed, for boxes of finite size, not clipped.
    """

    dtype = torch.float32
    policy_dtype: np.dtype[Any] = np.dtype(np.float32)
    policy_limits = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)
    rule = "means and log standard deviations must be finite"

    def __init__(self, low: np.ndarray, high: np.ndarray, *, squash: bool = False) -> None:
        least, largest = (torch.as_tensor(bound, dtype=torch.float32) for bound in (low, high))
        size = least.numel()
        self.num_params, self.squash = 2 * size, squash
        self.shape: tuple[int, ...] = (size,)
        self.none = torch.full((size,), torch.nan)
        self.is_bounded = is_bounded(low, high)
        assert self.is_bounded or not squash
        zeros, ones = torch.zeros(size), torch.ones(size)
        centre = (least / 2 + largest / 2) if self.is_bounded else zeros
        half = (largest / 2 - least / 2).clamp(min=EDGE) if self.is_bounded else ones
        units = (zeros, ones) if squash else (centre, half)  # squashed ones are in half widths
        box = _Box(least, largest, centre, half, *units)
        # By device: a step that a CUDA graph records copies nothing from the host.
        self._boxes = {least.device: box}

    def _box(self, device: torch.device) -> _Box:
        if device not in self._boxes:
            here = next(iter(self._boxes.values()))
            # A rollout may ask first, and tensors made in its mode take part in no gradient.
            with torch.inference_mode(mode=False):
                self._boxes[device] = _Box(*(bound.to(device) for bound in here))
        return self._boxes[device]

    def _split(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations of a policy, these within the limits."""
        mean, log_std = policy.chunk(2, dim=-1)
        shift = self._box(policy.device).unit.log()
        return mean, log_std.maximum(LEAST_LOG_STD + shift).minimum(LARGEST_LOG_STD + shift)

    def policy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.policy`."""
        mean, log_std = params.chunk(2, dim=-1)
        box = self._box(params.device)
        log_std = log_std.clamp(LEAST_LOG_STD, LARGEST_LOG_STD) + box.unit.log()
        return torch.cat((box.unit_centre + box.unit * mean, log_std), dim=-1)

    def draw(self, policy: Tensor, generator: torch.Generator) -> Tensor:
        """See `ActionDistribution.draw`; (N, d) float32."""
        mean, log_std = policy.chunk(2, dim=-1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return self._in_box(mean + noise * log_std.exp())

    def likeliest(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """See `ActionDistribution.likeliest`: means, with the least standard deviation there is."""
        mean, log_std = params.chunk(2, dim=-1)
        sure = self.policy(torch.cat((mean, torch.full_like(log_std, LEAST_LOG_STD)), dim=-1))
        return self._in_box(sure.chunk(2, dim=-1)[0]), sure

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """See `ActionDistribution.log_prob`."""
        mean, log_std = self._split(self.policy(params))
        drawn, stretch = self._before_squashing(action)
        scaled = (drawn - mean) * (-log_std).exp()
        density = -0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)
        return (density - stretch).sum(dim=-1)

    def entropy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.entropy`: before the box."""
        _, log_std = self._split(self.policy(params))
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def divergence(self, policy: Tensor, params: Tensor) -> Tensor:
        """See `ActionDistribution.divergence`: squashing leaves it as it is."""
        mean, log_std = self._split(policy)
        our_mean, our_log_std = self._split(self.policy(params))
        ratio = log_std - our_log_std
        distance = (mean - our_mean) * (-our_log_std).exp()
        # expm1: near 0, where the two are alike, nothing cancels.
        return (0.5 * torch.expm1(2 * ratio) - ratio + 0.5 * distance.square()).sum(dim=-1)

    def chance(self, num: int, device: torch.device) -> Tensor:
        """See `ActionDistribution.chance`: around the centre, as wide as half of the box."""
        return self.policy(torch.zeros(num, self.num_params, device=device))

    def random(self, num: int, generator: torch.Generator) -> Tensor:
        """See `ActionDistribution.random`: uniform in the box, or by `chance` where it has none."""
        device = generator.device
        if not self.is_bounded:
            return self.draw(self.chance(num, device), generator)
        low, high, *_ = self._box(device)
        return low + (high - low) * torch.rand(num, *self.shape, generator=generator, device=device)

    def mix(self, policy: Tensor, share: float) -> NoReturn:
        """See `ActionDistribution.mix`: a mixture of two Gaussians is none."""
        raise UserError(NO_MIXTURE.format("a mixture of two Gaussians is no Gaussian"))

    def softened(self, policy: Tensor, share: float) -> Tensor:
        """See `ActionDistribution.softened`: means and deviations go there in straight lines."""
        mean, log_std = policy.chunk(2, dim=-1)
        there, width = self.chance(1, policy.device)[0].chunk(2)
        std = (1 - share) * log_std.exp() + share * width.exp()
        return torch.cat((mean.lerp(there.expand_as(mean), share), std.log()), dim=-1)

    def is_none(self, action: Tensor) -> Tensor:
        """See `ActionDistribution.is_none`."""
        return action[..., 0].isnan()

    def restored(self, policy: Tensor) -> Tensor:
        """See `ActionDistribution.restored`: they were not rounded."""
        return policy.float()

    def defect(self, policy: np.ndarray) -> np.ndarray:
        """See `ActionDistribution.defect`: all are policies."""
        return np.zeros(policy.shape[:-1], np.float32)

    def middle_and_spread(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """What policies (..., A) mean, in the units of actions: medians and deviations, (..., d).

        A deviation is half of the way between the quantiles of a Gaussian that lie one standard
        deviation from the mean, squashed where draws are; means and standard deviations else.
        """
        mean, log_std = policy.chunk(2, dim=-1)
        if not self.squash:
            return mean, log_std.exp()
        low, middle, high = (self._in_box(mean + n * log_std.exp()) for n in (-1, 0, 1))
        return middle, (high - low) / 2

    def in_half_widths(self, action: Tensor) -> Tensor:
        """Where in the box actions (..., d) lie, each number from -1 to 1 if it has bounds."""
        box = self._box(action.device)
        return (action - box.centre) / box.half

    def _in_box(self, drawn: Tensor) -> Tensor:
        """The actions that draws from a policy mean."""
        box = self._box(drawn.device)
        if self.squash:
            drawn = box.centre + box.half * drawn.tanh()
        return drawn.clamp(box.low, box.high)

    def _before_squashing(self, action: Tensor) -> tuple[Tensor, Tensor | float]:
        """What was squashed to actions, and by how much its neighbourhood grew, as a logarithm."""
        if not self.squash:
            return action, 0.0
        drawn = self.in_half_widths(action).clamp(EDGE - 1, 1 - EDGE).atanh()
        # Of half * tanh(u): log(half) + log(1 - tanh(u)^2), which loses nothing far from 0.
        stretch = 2 * (math.log(2) - drawn - F.softplus(-2 * drawn))
        return drawn, stretch + self._box(action.device).half.log()
