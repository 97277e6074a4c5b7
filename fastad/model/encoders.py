"""The first slot of the model: from environment steps to tokens, by the kind of observation."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.model.config import ModelConfig
from fastad.model.kernels import Implementation, StepTables, projection
from fastad.model.queries import as_queries


def observation_encoder(space: spaces.Space[Any], width: int) -> nn.Module:
    """Choose how observations (B, T, ...) become features (B, T, width).

    Raises:
        UserError: If no encoder reads this space.
    """
    if isinstance(space, spaces.Discrete):
        return CoordinateEncoder(np.asarray([space.n]), width, first=int(space.start))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return CoordinateEncoder(space.nvec, width)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return VectorEncoder(space.shape[0], width)
    raise UserError(
        f"observation space {space} has no encoder; use Discrete, MultiDiscrete or a Box vector"
    )


class CoordinateEncoder(nn.Module):
    """One table per coordinate, summed.

    A single index per combination memorises its training goals; coordinates generalise.
    """

    offsets: Tensor

    def __init__(self, sizes: np.ndarray, width: int, *, first: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(int(sizes.sum()), width)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) - first
        self.register_buffer("offsets", torch.as_tensor(offsets), persistent=False)

    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Embed (B, T) or (B, T, coordinates) integers as (B, T, width), with PyTorch alone."""
        if observation.ndim == 2:
            observation = observation.unsqueeze(-1)
        out: Tensor = self.table(observation.long() + self.offsets).sum(dim=-2)
        return out


class VectorEncoder(nn.Module):
    """A linear map of a real vector."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, width)

    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Embed (B, T, size) as (B, T, width)."""
        weight = self.linear.weight
        return projection(observation.to(weight.dtype), weight, self.linear.bias, impl=impl)


class StepEncoder(nn.Module):
    """Tokens of environment steps, in any layout.

    fused: the sum of everything known when acting is one token. interleaved: previous action,
    previous reward, observation, in this order, so that a step is always three tokens and the
    last of them predicts the action. unordered: see `as_queries`.

    Args:
        config: Of the model.
        observation_space: Of one environment.
        num_actions: `A`.
        episode_length: Longest episode; later steps share the last step's embedding.
        reward_scale: Rewards are divided by it, so that they enter at the size of one.
        return_scale: Returns to go are divided by it; None: the model reads none.
    """

    def __init__(
        self,
        config: ModelConfig,
        observation_space: spaces.Space[Any],
        num_actions: int,
        episode_length: int,
        reward_shift: float,
        reward_scale: float,
        return_scale: float | None = None,
    ) -> None:
        super().__init__()
        width = config.width
        self.unordered = config.layout == "unordered"
        self.token_mask = config.token_mask
        self.reward_shift, self.reward_scale = reward_shift, reward_scale
        self.last_step = episode_length - 1
        self.observation = observation_encoder(observation_space, width)
        self.action = nn.Embedding(num_actions + 1, width)
        # A reward means something different after each action: bandits need their product.
        self.reward = nn.Embedding(num_actions + 1, width)
        self.start = nn.Embedding(2, width)
        self.step = nn.Embedding(episode_length, width) if config.episode_step else None
        self.kind = nn.Embedding(3, width) if config.layout == "interleaved" else None
        self.place = nn.Embedding(config.context, width) if config.positions == "learned" else None
        self.return_scale = return_scale
        self.return_to_go = None if return_scale is None else nn.Embedding(1, width)
        self._has_coordinates = self._in_tables() is not None

    def forward(self, steps: Steps, positions: Tensor | None = None) -> Tensor:
        """Embed B sequences of T steps.

        Args:
            steps: (B, T).
            positions: Of the tokens, (T * tokens_per_step,) or (B, T * tokens_per_step); for
                learned positions alone.

        Returns:
            (B, T * tokens_per_step, width).
        """
        steps = self.laid_out(steps)
        action = self.action(steps.previous_action)
        none = steps.previous_action == self.action.num_embeddings - 1
        reward = (steps.previous_reward - self.reward_shift) / self.reward_scale
        reward = reward.masked_fill(none, 0.0).unsqueeze(-1) * self.reward(steps.previous_action)
        state = self._told(steps) + self.start(steps.episode_start.long())
        if self.step is not None:
            state = state + self.step(steps.episode_step.clamp(max=self.last_step))
        if self.kind is None:
            tokens = action + reward + state
        else:
            tokens = torch.stack([action, reward, state], dim=2) + self.kind.weight
            tokens = tokens.flatten(1, 2)
        if self.training and self.token_mask > 0.0:
            keep = torch.rand(tokens.shape[:2], device=tokens.device) >= self.token_mask
            tokens = tokens * keep.unsqueeze(-1)
        if self.place is not None:
            assert positions is not None
            tokens = tokens + self.place(positions)
        return tokens

    def laid_out(self, steps: Steps) -> Steps:
        """What one token stands for, or three interleaved ones: steps (B, T), or (B, 2 T)."""
        return as_queries(steps, self.action.num_embeddings - 1) if self.unordered else steps

    def _in_tables(self) -> CoordinateEncoder | None:
        """Whose rows a frozen model sums up by itself; None: it is given features."""
        encoder = self.observation
        has_table = isinstance(encoder, CoordinateEncoder) and self.return_to_go is None
        return encoder if has_table else None  # type: ignore[return-value]

    def _told(self, steps: Steps, impl: Implementation = "sdpa") -> Tensor:
        """Features (B, T, width) of observations, and of returns to go where the model reads them.

        A number times a vector, as rewards: element by element, so that no sequence's bits depend
        on another.
        """
        features: Tensor = self.observation(steps.observation, impl)
        if self.return_to_go is None:
            return features
        assert steps.return_to_go is not None
        assert self.return_scale is not None
        share = (steps.return_to_go / self.return_scale).unsqueeze(-1)
        return features + share * self.return_to_go.weight[0]

    def beside_tables(self, steps: Steps) -> Tensor:
        """What a frozen model is given of steps (B, T) beside its tables' fields.

        Coordinates, or features where a table has no rows for what is observed.
        """
        return steps.observation.long() if self._has_coordinates else self._told(steps, "native")

    def offsets(self) -> Tensor | None:
        """What a frozen model adds to coordinates, (coordinates,); None where it has features."""
        coordinates = self._in_tables()
        return None if coordinates is None else coordinates.offsets

    def tables(self) -> StepTables:
        """What a frozen model sums its steps from; see `beside_tables` for the rest."""
        coordinates = self._in_tables()
        optional = (self.step, self.kind, self.place)
        step, kind, place = (None if x is None else x.weight.detach() for x in optional)
        action, reward, start = (x.weight.detach() for x in (self.action, self.reward, self.start))
        observation = None if coordinates is None else coordinates.table.weight.detach()
        return StepTables(action, reward, observation, start, step, kind, place)
