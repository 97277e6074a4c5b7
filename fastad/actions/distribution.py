"""What a distribution over actions is, whatever the actions are."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class ActionDistribution(Protocol):
    """A family of distributions over the actions of one space.

    A model's head gives `params`, of any size. A `policy` is what they mean, in the units of the
    space: what sources act by and histories store.

    Attributes:
        num_params: `A`, numbers in `params` and in a policy, per step.
        shape: Of one action.
        dtype: Of actions.
        none: (*shape), what stands where there is no action, such as before the first.
        policy_dtype: That histories store policies in.
        policy_limits: The least and the largest number in a policy.
        rule: What a policy must be, in words.
    """

    num_params: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    none: Tensor
    policy_dtype: np.dtype[Any]
    policy_limits: tuple[float, float]
    rule: str

    def policy(self, params: Tensor) -> Tensor:
        """The policy with these parameters, (..., A) both."""
        ...

    def draw(self, policy: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions (N, *shape), as environments take them.

        Args:
            policy: (N, A) float32.
            generator: On its device.
        """
        ...

    def likeliest(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The actions (N, *shape) of highest probability, and the policies (N, A) sure of them."""
        ...

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Logarithm of the probability, or density, of actions (..., *shape); (...)."""
        ...

    def entropy(self, params: Tensor) -> Tensor:
        """Of the distributions with parameters (..., A); (...)."""
        ...

    def divergence(self, policy: Tensor, params: Tensor) -> Tensor:
        """Kullback-Leibler divergence of `params` from a policy, both (..., A).

        Returns:
            (...), 0 where they are the same distribution.
        """
        ...

    def chance(self, num: int, device: torch.device) -> Tensor:
        """The policy that prefers nothing, (num, A)."""
        ...

    def random(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` actions (num, *shape) that prefer nothing, on the generator's device."""
        ...

    def mix(self, policy: Tensor, share: float) -> Tensor:
        """The policy that with probability `share` acts by chance instead, (..., A).

        Raises:
            UserError: If that is no policy of this kind.
        """
        ...

    def softened(self, policy: Tensor, share: float) -> Tensor:
        """The policy that is `share` of the way to chance, (..., A): all of it at 1."""
        ...

    def is_none(self, action: Tensor) -> Tensor:
        """Which of (..., *shape) are `none`, (...) bool."""
        ...

    def restored(self, policy: Tensor) -> Tensor:
        """Policies (..., A) float32 from those that histories hold, rounded as they are."""
        ...

    def defect(self, policy: np.ndarray) -> np.ndarray:
        """How far each row (..., A) within the limits is from being a policy; (...)."""
        ...
