"""Attention through PyTorch's fused scaled-dot-product kernels, banded by blocks.

Linear in the sequence: a block of queries is set against the keys of its band alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad_kernels.cache import RingCache
from fastad_kernels.positions import apply_rope

# Smaller query blocks waste fewer masked scores but cost more calls. The largest bounds the memory
# that a block's mask takes, which then is in proportion to the window, not to its square.
MIN_BLOCK, MAX_BLOCK = 64, 512
DROPOUT_BY_SEED = False


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    causal: bool,
    scale: float,
    alibi_slopes: Tensor | None,
    dropout: float,
    dropout_seed: Tensor | None,
) -> Tensor:
    """As the reference, with the same arguments; dropout is PyTorch's, from its own generator."""
    assert dropout_seed is None
    num_queries, num_keys = q.shape[1], k.shape[1]
    if causal and num_queries > num_keys:
        # The first queries stand before every key and see none.
        blind = num_queries - num_keys
        rest = attention(
            q[:, blind:], k, v, window=window, causal=True, scale=scale,
            alibi_slopes=alibi_slopes, dropout=dropout, dropout_seed=None,
        )  # fmt: skip
        return F.pad(rest, (0, 0, 0, 0, blind, 0))
    q, k, v = (x.transpose(1, 2) for x in (q, *_share_heads(q, k, v)))  # (B, H, T, D)
    if causal and window is not None and window >= num_keys:
        window = None
    is_biased = window is not None or alibi_slopes is not None
    if causal and is_biased and num_queries == num_keys > 0:
        out = _banded(q, k, v, window or num_keys, scale, alibi_slopes, dropout)
    elif not is_biased and (not causal or num_queries == num_keys):
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, dropout_p=dropout, scale=scale
        )
    else:
        offset = num_keys - num_queries
        bias = _bias(num_queries, num_keys, offset, causal, window, alibi_slopes, q)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale
        )
    return out.transpose(1, 2)


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    window: int | None,
    causal: bool,
    scale: float,
    alibi_slopes: Tensor | None,
    dropout: float,
    dropout_seed: Tensor | None,
) -> Tensor:
    """As the reference, with the same arguments; one sequence after the other.

    The host asks the device where sequences end.
    """
    assert max_seqlen_q >= 0 <= max_seqlen_k  # only kernels need these: they size a grid
    sequences = (
        packed.split(cu_seqlens.diff().tolist())
        for packed, cu_seqlens in ((q, cu_seqlens_q), (k, cu_seqlens_k), (v, cu_seqlens_k))
    )
    return torch.cat(
        [
            attention(
                *(x[None] for x in sequence), window=window, causal=causal, scale=scale,
                alibi_slopes=alibi_slopes, dropout=dropout, dropout_seed=dropout_seed,
            )[0]
            for sequence in zip(*sequences, strict=True)
        ]
    )  # fmt: skip


def _share_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat grouped key/value heads for each query head of their group."""
    groups = q.shape[2] // k.shape[2]
    if groups == 1:
        return k, v
    return k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)


def _bias(
    num_queries: int,
    num_keys: int,
    offset: int,
    causal: bool,
    window: int | None,
    alibi_slopes: Tensor | None,
    like: Tensor,
) -> Tensor:
    """What is added to the scores, (T, S) bool or (1, H, T, S); query t stands at t + offset."""
    queries = torch.arange(num_queries, device=like.device) + offset
    distance = queries[:, None] - torch.arange(num_keys, device=like.device)
    visible = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        visible = visible & (distance < window)
    if alibi_slopes is None:
        return visible
    # PyTorch's fused CPU kernel takes masks of two or four dimensions only.
    bias = -alibi_slopes.to(like)[None, :, None, None] * distance
    return bias.masked_fill(~visible, float("-inf"))


def _banded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    scale: float,
    alibi_slopes: Tensor | None,
    dropout: float,
) -> Tensor:
    """Causal attention within `window`, (B, H, T, D), block of queries by block of queries."""
    block = min(max(window // 4, MIN_BLOCK), MAX_BLOCK)
    num_tokens = q.shape[2]
    reach = -(-(window - 1) // block) * block  # how far back the first query of a block may look
    bias = _bias(block, reach + block, reach, True, window, alibi_slopes, q)
    if bias.dtype == torch.bool:
        # The fused kernel would turn it into numbers for every block, forward and backward.
        bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill(~bias, float("-inf"))
    starts = range(0, num_tokens, block)
    bounds = [(max(0, start - reach), min(start + block, num_tokens)) for start in starts]
    blocks = zip(
        q.split(block, dim=2), _Spans.apply(k, bounds), _Spans.apply(v, bounds), strict=True
    )
    outputs = []
    for start, (queries, keys, values) in zip(starts, blocks, strict=True):
        skip = max(0, reach - start)
        mask = bias[..., : queries.shape[2], skip : skip + keys.shape[2]]
        outputs.append(
            F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale
            )
        )
    return torch.cat(outputs, dim=2)


class _Spans(torch.autograd.Function):
    """Overlapping spans of a sequence (B, H, T, D), as views.

    The gradient of a plain slice is as long as the whole sequence, which would make the backward
    pass quadratic; here every span adds to its own place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bounds: list[tuple[int, int]]) -> tuple[Tensor, ...]:
        ctx.bounds, ctx.num_tokens = bounds, x.shape[2]
        return tuple(x[:, :, start:end] for start, end in bounds)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        batch, heads, _, dim = gradients[0].shape
        # As the projections lie in memory: token by token.
        total = gradients[0].new_zeros(batch, ctx.num_tokens, heads, dim).transpose(1, 2)
        for (start, end), gradient in zip(ctx.bounds, gradients, strict=True):
            total[:, :, start:end] += gradient
        return total, None


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: RingCache,
    *,
    window: int,
    scale: float,
    alibi_slopes: Tensor | None,
    rope: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """As the reference, with the same arguments.

    Two plain products: with so few queries they are quicker than the fused kernels, and grouped
    heads cost nothing.
    """
    if rope is not None:
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    cache.append(k, v)
    batch, num_new, num_heads, dim = q.shape
    # While the ring fills, slots beyond the longest context hold nothing for anyone.
    written = cache.capacity if cache.lockstep is None else min(cache.lockstep, cache.capacity)
    keys, values = cache.read(written, q.dtype)
    if cache.lockstep is None:
        blank = (cache.lengths[:, None] <= torch.arange(written, device=q.device))[..., None, None]
        if blank.device.type != "cpu" or blank.any():
            # Unwritten memory may hold NaN, which neither 0 * NaN nor NaN - inf hides. On a CPU,
            # where asking is free, full rings are spared the copy.
            keys, values = keys.masked_fill(blank, 0.0), values.masked_fill(blank, 0.0)
    kv_heads = keys.shape[2]
    rows = batch * kv_heads  # one product each, for all queries that share the head
    queries = (q * scale).transpose(1, 2).reshape(rows, -1, dim)
    scores = torch.bmm(queries, keys.permute(0, 2, 3, 1).reshape(rows, dim, written))
    scores = scores.view(batch, num_heads, num_new, written)
    # One new token that follows all others in a ring without slack sees the whole of it.
    if cache.lockstep is None or alibi_slopes is not None or num_new > 1 or written > window:
        scores += _ring_bias(cache, written, num_new, window, alibi_slopes, q)
    weights = scores.softmax(dim=-1).view(rows, -1, written)
    out = torch.bmm(weights, values.transpose(1, 2).reshape(rows, written, dim))
    return out.view(batch, num_heads, num_new, dim).transpose(1, 2)


def _ring_bias(
    cache: RingCache,
    written: int,
    num_new: int,
    window: int,
    alibi_slopes: Tensor | None,
    like: Tensor,
) -> Tensor:
    """What is added to the scores of `num_new` just appended tokens against the ring.

    Returns:
        (B or 1, H or 1, T, written); one row for all environments in lockstep.
    """
    slots, lengths = cache.slot_positions()[:, :written], cache.lengths
    if cache.lockstep is not None:
        slots, lengths = slots[:1], lengths[:1]
    queries = lengths[:, None] - num_new + torch.arange(num_new, device=lengths.device)
    distance = (queries[:, :, None] - slots[:, None, :]).unsqueeze(1)  # (B or 1, 1, T, written)
    visible = (distance >= 0) & (distance < window) & (slots >= 0)[:, None, None, :]
    if alibi_slopes is None:
        bias = like.new_zeros(visible.shape)
    else:
        bias = -alibi_slopes.to(like)[:, None, None] * distance
    return bias.masked_fill(~visible, float("-inf"))
