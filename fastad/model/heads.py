"""The last slot of the model: from the trunk's features to what is predicted at every step."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastad.model.config import ModelConfig
from fastad.model.kernels import Affine, Implementation, affine, projection


class Output(NamedTuple):
    """What the model predicts at each of `T` steps of `B` sequences."""

    policy: Tensor  # (B, T, A), parameters of the next action's distribution: logits, if Discrete
    value: Tensor | None = None  # (B, T) of what follows, where the model has such a head
    # By name, (B, T, codes) logits of what the encoder is taught besides, in training; see
    # `TaskFamily.auxiliary`.
    auxiliary: dict[str, Tensor] | None = None


class Heads(nn.Module):
    """A norm, where blocks have theirs first, and a linear map for each prediction.

    Args:
        config: Of the model.
        num_params: `A`.
        value: Whether values are predicted, too.
    """

    def __init__(self, config: ModelConfig, num_params: int, *, value: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.policy = nn.Linear(config.width, num_params)
        self.value = nn.Linear(config.width, 1) if value else None

    def forward(self, features: Tensor, *, impl: Implementation = "sdpa") -> Output:
        """Predict from features (B, T, width)."""
        weight: Tensor = self.policy.weight
        bias: Tensor = self.policy.bias
        if self.value is not None:  # one product for both
            weight = torch.cat([weight, self.value.weight])
            bias = torch.cat([bias, self.value.bias])
        norm = self.norm if isinstance(self.norm, nn.LayerNorm) else None
        predicted = projection(
            features, weight, bias, norm=None if norm is None else (norm.weight, norm.bias),
            epsilon=1e-5 if norm is None else norm.eps, impl=impl,
        )  # fmt: skip
        if self.value is None:
            return Output(predicted)
        return Output(predicted[..., :-1], predicted[..., -1])

    def weights(self) -> tuple[Affine | None, Affine]:
        """The norm, if there is one, and the policy's map, as a frozen model takes them."""
        norm = affine(self.norm) if isinstance(self.norm, nn.LayerNorm) else None
        return norm, affine(self.policy)
