"""Transformer blocks whose weights no longer change: what decodes them, and its specification.

While weights are frozen, whole blocks can be decoded by one kernel, and their matrices may be
multiplied out beforehand. `absorb` does the latter: keys and values are linear in the token that
they come from, so that without rotary positions

    q_h . k_h(j) = (Wk_h^T q_h) . t_j + const,      sum_j p_j v_h(j) = Wv_h (sum_j p_j t_j) + bv_h

and the constant, which is the same for every key, leaves the softmax alone. The cache then holds
tokens t_j, one per position for all heads, in place of their keys and values: half the memory for
as many key heads as query heads. It is the same function, in exact arithmetic.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad_kernels import reference
from fastad_kernels.cache import RingCache


class Affine(NamedTuple):
    """y = x @ weight.T + bias, or a LayerNorm's scale and shift."""

    weight: Tensor  # (out, in), or (width,)
    bias: Tensor  # (out,)


class BlockWeights(NamedTuple):
    """The weights of a block: attention and a GELU MLP, each with a residual connection."""

    attention_norm: Affine
    query: Affine  # to num_heads * dim
    key_value: Affine | None  # to 2 * num_kv_heads * dim; None: a token is its own key and value
    out: Affine  # from num_heads * dim
    mlp_norm: Affine
    mlp_in: Affine
    mlp_out: Affine


class BlockShape(NamedTuple):
    """What blocks have in common.

    Attributes:
        num_heads: `H`.
        num_kv_heads: `Hkv`.
        dim: `D`, of queries, keys and values.
        scale: Of the scores.
        window: Tokens that a query may see, itself included.
        pre_norm: Whether norms come before each sublayer or after it.
        epsilon: Of the norms.
    """

    num_heads: int
    num_kv_heads: int
    dim: int
    scale: float
    window: int
    pre_norm: bool = True
    epsilon: float = 1e-5


class FrozenBlocks(ABC):
    """Transformer blocks with frozen weights that decode new tokens, all blocks in one call."""

    @abstractmethod
    def make_rings(self, batch_size: int, capacity: int) -> list[RingCache]:
        """Caches of at least `capacity` slots, one per block."""

    @abstractmethod
    def decode(
        self, x: Tensor, rings: list[RingCache], *, rope: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Run new tokens x, (B, T, width) float32, through all blocks; see `decode_blocks`.

        Args:
            x: Left as it is.
            rings: As `make_rings` gave them; mutated.
            rope: cos and sin of the new tokens, (B or 1, T, D / 2), or None.

        Returns:
            (B, T, width).

        Raises:
            ValueError: If shapes, dtypes or rings do not fit the blocks, or x requires a gradient.
        """


def absorb(block: BlockWeights, shape: BlockShape) -> tuple[BlockWeights, BlockShape]:
    """The same block over a cache of tokens; see the module. Products are formed in float64.

    Raises:
        ValueError: If the block has been absorbed already.
    """
    if block.key_value is None:
        raise ValueError("key_value=None: this block's cache holds tokens already")
    width, dim = block.key_value.weight.shape[1], shape.dim
    dtype = block.query.weight.dtype
    groups = shape.num_heads // shape.num_kv_heads

    def heads(x: Tensor) -> Tensor:
        """(heads, dim, ...) in float64."""
        return x.double().unflatten(0, (-1, dim))

    key, value = block.key_value.weight.chunk(2)
    value_bias = block.key_value.bias.chunk(2)[1]
    key, value = (heads(x).repeat_interleave(groups, 0) for x in (key, value))  # (H, D, width)
    out = block.out.weight.double().unflatten(1, (-1, dim))  # (width, H, D)
    query = Affine(
        torch.einsum("hdj,hdi->hji", key, heads(block.query.weight)).flatten(0, 1).to(dtype),
        torch.einsum("hdj,hd->hj", key, heads(block.query.bias)).flatten().to(dtype),
    )
    shift = torch.einsum("ohd,hd->o", out, heads(value_bias).repeat_interleave(groups, 0))
    out = Affine(
        torch.einsum("ohd,hdi->ohi", out, value).flatten(1).to(dtype),
        (block.out.bias.double() + shift).to(dtype),
    )
    absorbed = block._replace(query=query, key_value=None, out=out)
    return absorbed, shape._replace(num_kv_heads=1, dim=width)


def decode_blocks(
    x: Tensor,
    blocks: list[BlockWeights],
    rings: list[RingCache],
    shape: BlockShape,
    *,
    alibi_slopes: Tensor | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The specification: new tokens through all blocks, each appended to the block's ring.

    Args:
        x: (B, T, width).
        blocks: Their weights.
        rings: One per block, mutated.
        shape: Of the blocks.
        alibi_slopes: (H,), or None.
        rope: cos and sin of the new tokens, (B or 1, T, D / 2), or None.

    Returns:
        (B, T, width).
    """

    def norm(x: Tensor, affine: Affine) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *affine, shape.epsilon)

    for block, ring in zip(blocks, rings, strict=True):
        tokens = norm(x, block.attention_norm) if shape.pre_norm else x
        q = F.linear(tokens, *block.query).unflatten(-1, (shape.num_heads, shape.dim))
        if block.key_value is None:
            k = v = tokens.unsqueeze(2)
        else:
            k, v = F.linear(tokens, *block.key_value).chunk(2, dim=-1)
            k, v = (y.unflatten(-1, (shape.num_kv_heads, shape.dim)) for y in (k, v))
        attended = reference.decode_attention(
            q, k, v, ring, window=shape.window, scale=shape.scale, alibi_slopes=alibi_slopes,
            rope=rope,
        )  # fmt: skip
        x = x + F.linear(attended.flatten(2), *block.out)
        x = x if shape.pre_norm else norm(x, block.attention_norm)
        if shape.pre_norm:
            x = reference.residual_mlp(
                x, *block.mlp_norm, *block.mlp_in, *block.mlp_out, shape.epsilon
            )
        else:
            hidden = F.gelu(F.linear(x, *block.mlp_in))
            x = norm(x + F.linear(hidden, *block.mlp_out), block.mlp_norm)
    return x
