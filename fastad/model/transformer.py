"""A trunk of the model: a causal transformer over tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastad.model.band import Band, Observer, make_band
from fastad.model.config import ModelConfig
from fastad.model.kernels import (
    BlockShape,
    BlockWeights,
    Implementation,
    RingCache,
    affine,
    attend,
    make_ring,
    projection,
    residual_mlp,
    split_heads,
)
from fastad.model.share import Dropout, Share


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
        self.dropout = Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, band: Band, ring: RingCache | None) -> Tensor:
        """Map tokens (B, T, width) to (B, T, width)."""
        if not self.pre_norm:
            x = self.attention_norm(x + self.dropout(self._attention(x, band, ring)))
            out: Tensor = self.mlp_norm(x + self.dropout(self._mlp(x)))
            return out
        if self.training and isinstance(self.dropout, Dropout):
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
        q, k, v = split_heads(heads, self.heads)  # (B, T, H or Hkv, D)
        attended = attend(q, k, v, band, ring).flatten(2)
        return projection(attended, out.weight, out.bias, residual=residual, impl=band.impl)

    def weights(self) -> BlockWeights:
        """As `fastad_kernels.FrozenBlocks` take them; copied."""
        return BlockWeights(
            attention_norm=affine(self.attention_norm),
            query=affine(self.query),
            key_value=affine(self.key, self.value),
            out=affine(self.attention_out),
            mlp_norm=affine(self.mlp_norm),
            mlp_in=affine(self.mlp_in),
            mlp_out=affine(self.mlp_out),
        )

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp_out(F.gelu(self.mlp_in(x)))
        return out


class Transformer(nn.Module):
    """A trunk: blocks of banded causal attention.

    Args:
        config: Of the model.

    Attributes:
        activation_checkpointing: Whether training keeps the input of every block alone, and
            computes what is within it again in the backward pass: the same gradients, bit for bit.
        share: Of the batch; see `fastad.model.share`.
        observer: Of attention over whole sequences; see `Band`.
    """

    share: Share | None = None
    observer: Observer | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.dropout = Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        rings: list[RingCache] | None,
        *,
        window: int,
        bounds: Tensor | None = None,
        impl: Implementation,
    ) -> Tensor:
        """Map tokens (B, T, width) to features of the same shape; each sees those before it.

        Args:
            tokens: Whole sequences, or what follows the tokens in `rings`.
            positions: Of the tokens, (T,) or (B, T); for rotary positions alone.
            rings: If given, one per block; the tokens are appended to them.
            window: `W`, tokens that a query may see, itself included.
            bounds: Of contexts in whole sequences, see `Band`.
            impl: What computes attention, linear maps and MLPs.
        """
        config = self.config
        x = self.dropout(tokens)
        band = make_band(
            config.positions,
            positions,
            window=window,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            rope_base=config.rope_base,
            device=x.device,
            dropout=config.attention_dropout if self.training else 0.0,
            bounds=bounds,
            share=self.share,
            impl=impl,
            observer=self.observer,
        )
        if self.activation_checkpointing and self.training:
            # What is drawn in a block is drawn again alike; where nothing is, nobody looks.
            draws = config.dropout > 0.0 or config.attention_dropout > 0.0
            for block in self.blocks:
                x = checkpoint(block, x, band, None, use_reentrant=False, preserve_rng_state=draws)
            return x
        for index, block in enumerate(self.blocks):
            x = block(x, band, None if rings is None else rings[index])
        return x

    def make_rings(
        self, batch_size: int, capacity: int, *, impl: Implementation
    ) -> list[RingCache]:
        """Empty caches of `capacity` tokens, one per block, in the order that `impl` reads."""
        config = self.config
        return [
            make_ring(
                impl, batch_size, capacity, config.kv_heads, config.head_dim,
                dtype=torch.float32, device=next(self.parameters()).device,
            )
            for _ in self.blocks
        ]  # fmt: skip

    def matrix_names(self) -> list[str]:
        """Parameters that map tokens to tokens; see `SequenceModel.matrix_names`."""
        linear = (module for module in self.blocks.modules() if isinstance(module, nn.Linear))
        weights = {id(module.weight) for module in linear}
        return [name for name, parameter in self.named_parameters() if id(parameter) in weights]

    def weights(self, window: int) -> tuple[list[BlockWeights], BlockShape]:
        """The blocks as a frozen model takes them that sees `window` tokens; copied."""
        config = self.config
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        shape = BlockShape(
            config.num_heads, config.kv_heads, config.head_dim, config.head_dim**-0.5,
            window, config.norm == "pre", blocks[0].attention_norm.eps,
        )  # fmt: skip
        return [block.weights() for block in blocks], shape
