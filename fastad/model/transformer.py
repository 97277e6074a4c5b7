"""A causal transformer that reads learning histories and predicts the next action."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.model.cache import ModelCache
from fastad.model.config import ModelConfig
from fastad.model.embedding import CoordinateEncoder, StepEmbedding
from fastad.model.kernels import (
    Affine,
    Band,
    BlockShape,
    BlockWeights,
    FrozenModel,
    Implementation,
    RingCache,
    attend,
    freeze_model,
    make_band,
    projection,
    residual_mlp,
    rope_angles,
)


class Block(nn.Module):
    """Banded attention and a GELU MLP, each with a residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, kv_width = config.width, config.kv_heads * config.head_dim
        hidden = 4 * width if config.mlp_width is None else config.mlp_width
        self.head_dim, self.pre_norm = config.head_dim, config.norm == "pre"
        self.heads = [config.num_heads, config.kv_heads, config.kv_heads]
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, kv_width)
        self.value = nn.Linear(width, kv_width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, band: Band, ring: RingCache | None) -> Tensor:
        """Map tokens (B, T, width) to (B, T, width)."""
        if not self.pre_norm:
            x = self.attention_norm(x + self.dropout(self._attention(x, band, ring)))
            out: Tensor = self.mlp_norm(x + self.dropout(self._mlp(x)))
            return out
        if self.training and isinstance(self.dropout, nn.Dropout):
            x = x + self.dropout(self._attention(x, band, ring))
            return x + self.dropout(self._mlp(self.mlp_norm(x)))
        x = self._attention(x, band, ring, residual=x)
        norm, mlp_in, mlp_out = self.mlp_norm, self.mlp_in, self.mlp_out
        return residual_mlp(
            x, norm.weight, norm.bias, mlp_in.weight, mlp_in.bias, mlp_out.weight, mlp_out.bias,
            epsilon=norm.eps, impl=band.impl,
        )  # fmt: skip

    def _attention(
        self, x: Tensor, band: Band, ring: RingCache | None, residual: Tensor | None = None
    ) -> Tensor:
        # Three matrices for the optimizer, one product for speed.
        projections = (self.query, self.key, self.value)
        weight = torch.cat([linear.weight for linear in projections])
        bias = torch.cat([linear.bias for linear in projections])
        norm, out = self.attention_norm, self.attention_out
        heads = projection(
            x, weight, bias, norm=(norm.weight, norm.bias) if self.pre_norm else None,
            epsilon=norm.eps, impl=band.impl,
        ).unflatten(-1, (-1, self.head_dim))  # fmt: skip
        q, k, v = heads.split(self.heads, dim=2)  # (B, T, H or Hkv, D)
        attended = attend(q, k, v, band, ring).flatten(2)
        return projection(attended, out.weight, out.bias, residual=residual, impl=band.impl)

    def weights(self) -> BlockWeights:
        """As `fastad_kernels.FrozenBlocks` take them; copied."""
        return BlockWeights(
            attention_norm=_affine(self.attention_norm),
            query=_affine(self.query),
            key_value=_affine(self.key, self.value),
            out=_affine(self.attention_out),
            mlp_norm=_affine(self.mlp_norm),
            mlp_in=_affine(self.mlp_in),
            mlp_out=_affine(self.mlp_out),
        )

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp_out(F.gelu(self.mlp_in(x)))
        return out


class Transformer(nn.Module):
    """Predicts, at every step of a learning history, the source's action.

    Args:
        config: Sizes and schemes.
        observation_space: Of one environment.
        action_space: Discrete.
        episode_length: Longest episode.
        reward_shift: Subtracted from rewards before they are embedded.
        reward_scale: Divides them then.
    """

    def __init__(
        self,
        config: ModelConfig,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        episode_length: int,
        *,
        reward_shift: float = 0.0,
        reward_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.observation_space, self.action_space = observation_space, action_space
        self.episode_length = episode_length
        self.reward_shift, self.reward_scale = reward_shift, reward_scale
        self.num_actions = int(action_space.n)
        self.kernels: Implementation = "auto"  # a choice of the machine, not of the model
        self.embedding = StepEmbedding(
            config, observation_space, self.num_actions, episode_length, reward_shift, reward_scale
        )
        self._has_coordinates = isinstance(self.embedding.observation, CoordinateEncoder)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.head = nn.Linear(config.width, self.num_actions)
        self.apply(_initialise)

    def forward(self, steps: Steps, cache: ModelCache | None = None) -> Tensor:
        """Predict actions for whole sequences, or for the next steps of cached ones.

        Args:
            steps: (B, T).
            cache: If given, the steps follow what it holds and are appended to it.

        Returns:
            Logits (B, T, A); those at step t see steps up to t.

        Raises:
            UserError: If learned positions run out: they cannot slide.
        """
        per_step = self.config.tokens_per_step
        num_tokens = steps.previous_action.shape[1] * per_step
        if self.config.positions == "learned":
            self.check_length(num_tokens if cache is None else cache.longest() + num_tokens)
        positions = None
        if self.config.positions in ("rope", "learned"):
            if cache is not None:
                positions = cache.positions(num_tokens)
            else:
                positions = torch.arange(num_tokens, device=steps.previous_action.device)
        if cache is not None and cache.frozen is not None:
            return self._decode_at_once(cache.frozen, steps, cache, positions)
        x = self.dropout(self.embedding(steps, positions))
        band = make_band(
            self.config.positions,
            positions,
            window=self.config.context,
            num_heads=self.config.num_heads,
            head_dim=self.config.head_dim,
            rope_base=self.config.rope_base,
            device=x.device,
            dropout=self.config.attention_dropout if self.training else 0.0,
            impl=self.kernels,
        )
        for index, block in enumerate(self.blocks):
            x = block(x, band, None if cache is None else cache[index])
        # The last token of each step, the observation, is the one that predicts.
        logits: Tensor = self.head(self.final_norm(x[:, per_step - 1 :: per_step]))
        return logits

    def _decode_at_once(
        self, frozen: FrozenModel, steps: Steps, cache: ModelCache, positions: Tensor | None
    ) -> Tensor:
        """As `forward`, by kernels that compute every row by itself.

        An environment's logits do not depend on who rolls out beside it, to the last bit, where
        PyTorch's products do.
        """
        config = self.config
        if self._has_coordinates:
            observation = steps.observation.long()
        else:
            observation = self.embedding.observation(steps.observation, "native")
        rope = None
        if config.positions == "rope":
            assert positions is not None
            rope = rope_angles(positions, config.head_dim, base=config.rope_base)
        return frozen.decode(
            observation, steps.previous_action, steps.previous_reward, steps.episode_start,
            steps.episode_step, cache, positions=positions, rope=rope,
        )  # fmt: skip

    def matrix_names(self) -> list[str]:
        """Parameters that map tokens to tokens: what an optimiser of matrices, as Muon, is for.

        What leads into the blocks and out of them is not: those rows stand for themselves.
        """
        linear = (module for module in self.blocks.modules() if isinstance(module, nn.Linear))
        weights = {id(module.weight) for module in linear}
        return [name for name, parameter in self.named_parameters() if id(parameter) in weights]

    def freeze(self) -> FrozenModel | None:
        """The model as one kernel for the cached step, for as long as no weight changes.

        None where the model's implementation of attention has no such kernel on this device.
        """
        config, embedding, norm = self.config, self.embedding, self.final_norm
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        shape = BlockShape(
            config.num_heads, config.kv_heads, config.head_dim, config.head_dim**-0.5,
            config.context, config.norm == "pre", blocks[0].attention_norm.eps,
        )  # fmt: skip
        encoder = embedding.observation
        return freeze_model(
            [block.weights() for block in blocks], shape, embedding.tables(),
            norm=_affine(norm) if isinstance(norm, nn.LayerNorm) else None, head=_affine(self.head),
            offsets=encoder.offsets if isinstance(encoder, CoordinateEncoder) else None,
            reward_shift=self.reward_shift, reward_scale=self.reward_scale,
            scheme=config.positions, impl=self.kernels,
        )  # fmt: skip

    def check_length(self, num_tokens: int) -> None:
        """Refuse sequences of more tokens than learned positions have places for."""
        if self.config.positions == "learned" and num_tokens > self.config.context:
            raise UserError(
                f"positions=learned has context={self.config.context} places and cannot slide, "
                f"but {num_tokens} tokens were asked for; use rope, alibi or none, or fewer steps"
            )


def _affine(*layers: nn.Linear | nn.LayerNorm) -> Affine:
    """One affine map of all layers' outputs, without a gradient."""
    weight, bias = zip(
        *((layer.weight.detach(), layer.bias.detach()) for layer in layers), strict=True
    )
    return Affine(*(x[0] if len(x) == 1 else torch.cat(x) for x in (weight, bias)))


def _initialise(module: nn.Module) -> None:
    """Embeddings at 0.2, projections at half the variance-preserving size, biases at 0."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.2)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5 / math.sqrt(module.in_features))
        nn.init.zeros_(module.bias)
