"""Distributions over choices: one of several, or one of several for each of several things."""

from typing import Any, NoReturn

import fastad_kernels
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.base.errors import UserError

POLICY_TOLERANCE = 5e-3  # of a stored policy's defect: float16 keeps 11 bits of every probability
HIGHEST = 1.0 + POLICY_TOLERANCE
NO_MIXTURE = "noise_labels=executed is not possible: {}, so it cannot be stored; use clean"


class Categorical:
    """Over `num_actions` actions: `params` are logits, a policy is probabilities."""

    shape: tuple[int, ...] = ()
    dtype = torch.int64
    policy_dtype: np.dtype[Any] = np.dtype(np.float16)
    policy_limits = 0.0, HIGHEST
    rule = "probabilities must not be negative and must sum to 1"

    def __init__(self, num_actions: int) -> None:
        self.num_params = num_actions
        self.none = torch.tensor(num_actions)  # one past the last

    def policy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.policy`."""
        return params.softmax(dim=-1)

    def draw(self, policy: Tensor, generator: torch.Generator) -> Tensor:
        """See `ActionDistribution.draw`; what has probability 0 is never drawn."""
        uniform = torch.rand((len(policy), 1), generator=generator, device=policy.device)
        return fastad_kernels.draw(policy, uniform, impl="auto")

    def likeliest(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """See `ActionDistribution.likeliest`."""
        action = params.argmax(dim=-1)
        return action, torch.zeros_like(params).scatter_(-1, action[..., None], 1.0)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """See `ActionDistribution.log_prob`."""
        return params.log_softmax(dim=-1).gather(-1, action[..., None]).squeeze(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.entropy`."""
        log_probs = params.log_softmax(dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)

    def divergence(self, policy: Tensor, params: Tensor) -> Tensor:
        """See `ActionDistribution.divergence`."""
        return F.kl_div(params.log_softmax(dim=-1), policy, reduction="none").sum(dim=-1)

    def chance(self, num: int, device: torch.device) -> Tensor:
        """See `ActionDistribution.chance`."""
        return torch.full((num, self.num_params), 1.0 / self.num_params, device=device)

    def random(self, num: int, generator: torch.Generator) -> Tensor:
        """See `ActionDistribution.random`."""
        device = generator.device
        return torch.randint(self.num_params, (num,), generator=generator, device=device)

    def mix(self, policy: Tensor, share: float) -> Tensor:
        """See `ActionDistribution.mix`."""
        return policy * (1.0 - share) + share / self.num_params

    def softened(self, policy: Tensor, share: float) -> Tensor:
        """See `ActionDistribution.softened`: the mixture."""
        return self.mix(policy, share)

    def is_none(self, action: Tensor) -> Tensor:
        """See `ActionDistribution.is_none`."""
        return action == self.num_params

    def restored(self, policy: Tensor) -> Tensor:
        """See `ActionDistribution.restored`: as float16 rows sum to 1 only nearly."""
        wide = policy.float()
        return wide / wide.sum(dim=-1, keepdim=True)

    def defect(self, policy: np.ndarray) -> np.ndarray:
        """See `ActionDistribution.defect`: of the sum."""
        wide = policy.astype(np.float32) if policy.dtype.itemsize < 4 else policy
        # einsum sums in the wide dtype, several times as fast as `sum` on short rows.
        defect: np.ndarray = np.abs(np.einsum("...a->...", wide) - 1)
        return defect


class MultiCategorical:
    """One choice for each of `k` things, independently, as of a MultiDiscrete space.

    `params` are the logits of the first choice, then of the second, ...; a policy is as many
    probabilities.

    Args:
        sizes: (k,), the options of each choice.
    """

    dtype = torch.int64
    policy_dtype: np.dtype[Any] = np.dtype(np.float16)
    policy_limits = 0.0, HIGHEST
    rule = "the probabilities of each choice must not be negative and must sum to 1"

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = [int(size) for size in sizes]
        self.choices = [Categorical(size) for size in self.sizes]
        self.num_params = sum(self.sizes)
        self.shape: tuple[int, ...] = (len(self.sizes),)
        self.none = torch.tensor(self.sizes)  # one past the last of each

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(self.sizes, dim=-1)

    def policy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.policy`."""
        return torch.cat([part.softmax(dim=-1) for part in self._parts(params)], dim=-1)

    def draw(self, policy: Tensor, generator: torch.Generator) -> Tensor:
        """See `ActionDistribution.draw`."""
        parts = zip(self.choices, self._parts(policy), strict=True)
        return torch.stack([choice.draw(part, generator) for choice, part in parts], dim=-1)

    def likeliest(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """See `ActionDistribution.likeliest`."""
        parts = zip(self.choices, self._parts(params), strict=True)
        actions, policies = zip(*(choice.likeliest(part) for choice, part in parts), strict=True)
        return torch.stack(actions, dim=-1), torch.cat(policies, dim=-1)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """See `ActionDistribution.log_prob`."""
        parts = zip(self.choices, self._parts(params), action.unbind(dim=-1), strict=True)
        return torch.stack([choice.log_prob(*part) for choice, *part in parts]).sum(dim=0)

    def entropy(self, params: Tensor) -> Tensor:
        """See `ActionDistribution.entropy`."""
        parts = zip(self.choices, self._parts(params), strict=True)
        return torch.stack([choice.entropy(part) for choice, part in parts]).sum(dim=0)

    def divergence(self, policy: Tensor, params: Tensor) -> Tensor:
        """See `ActionDistribution.divergence`: the sum over choices."""
        parts = zip(self.choices, self._parts(policy), self._parts(params), strict=True)
        return torch.stack([choice.divergence(*part) for choice, *part in parts]).sum(dim=0)

    def chance(self, num: int, device: torch.device) -> Tensor:
        """See `ActionDistribution.chance`."""
        return torch.cat([choice.chance(num, device) for choice in self.choices], dim=-1)

    def random(self, num: int, generator: torch.Generator) -> Tensor:
        """See `ActionDistribution.random`."""
        return torch.stack([choice.random(num, generator) for choice in self.choices], dim=-1)

    def mix(self, policy: Tensor, share: float) -> NoReturn:
        """See `ActionDistribution.mix`: choices that chance makes together are not independent."""
        raise UserError(NO_MIXTURE.format("choices that chance makes together are not independent"))

    def softened(self, policy: Tensor, share: float) -> Tensor:
        """See `ActionDistribution.softened`: each choice by itself."""
        parts = zip(self.choices, self._parts(policy), strict=True)
        return torch.cat([choice.softened(part, share) for choice, part in parts], dim=-1)

    def is_none(self, action: Tensor) -> Tensor:
        """See `ActionDistribution.is_none`."""
        return action[..., 0] == self.sizes[0]

    def restored(self, policy: Tensor) -> Tensor:
        """See `ActionDistribution.restored`."""
        parts = zip(self.choices, self._parts(policy), strict=True)
        return torch.cat([choice.restored(part) for choice, part in parts], dim=-1)

    def defect(self, policy: np.ndarray) -> np.ndarray:
        """See `ActionDistribution.defect`: the largest of any choice."""
        parts = np.split(policy, np.cumsum(self.sizes)[:-1], axis=-1)
        pairs = zip(self.choices, parts, strict=True)
        return np.max([choice.defect(part) for choice, part in pairs], axis=0)
