"""The specification: attention in plain PyTorch, any dtype, any device, differentiable.

Everything else in this package is held to these functions.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad_kernels import philox
from fastad_kernels.cache import RingCache
from fastad_kernels.positions import apply_rope

DROPOUT_BY_SEED = True


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
    """Softmax attention over whole sequences; arguments as in `fastad_kernels.attention`."""
    out, _ = attention_with_lse(
        q, k, v, window=window, causal=causal, scale=scale, alibi_slopes=alibi_slopes,
        dropout=dropout, dropout_seed=dropout_seed,
    )  # fmt: skip
    return out


def attention_weights(
    q: Tensor,
    k: Tensor,
    *,
    window: int | None,
    causal: bool,
    scale: float,
    alibi_slopes: Tensor | None,
) -> Tensor:
    """How `attention` weights the values, without dropout; arguments as there.

    Returns:
        (B, H, T, S); a query's weights sum to 1 and are 0 outside its band. Those of a query that
        sees no key are 0.
    """
    distance, visible = _band(q, k, window=window, causal=causal)
    scores, blind = _scores(q, k, distance, visible, scale, alibi_slopes)
    return scores.softmax(dim=-1).masked_fill(blind[..., None], 0.0)


def attention_with_lse(
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
    first_sequence: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `attention`, and the logarithm of the softmax's denominator.

    With `T` queries and `S` keys the last query is aligned with the last key: query t stands at
    position t + S - T.

    Args:
        q: (B, T, H, D).
        k: (B, S, Hkv, D).
        v: (B, S, Hkv, D).
        window: As in `fastad_kernels.attention`, like everything else not described here.
        causal: As there.
        scale: As there.
        alibi_slopes: As there.
        dropout: As there.
        dropout_seed: Of the mask that `philox.keep_mask` specifies; None where dropout is 0.
        first_sequence: Number of the first sequence in its batch, which the mask depends on.

    Returns:
        The attention, (B, T, H, D), and the natural log-sum-exp of the scores, (B, H, T), before
        dropout; -inf for a query that sees no key.
    """
    num_queries, num_keys = q.shape[1], k.shape[1]
    distance, visible = _band(q, k, window=window, causal=causal)
    keep = None
    if dropout_seed is not None and philox.drop_threshold(dropout) > 0:
        keep = philox.keep_mask(
            dropout_seed, dropout,
            batch=torch.arange(first_sequence, first_sequence + q.shape[0]), heads=q.shape[2],
            rows=num_queries, columns=num_keys,
        ).to(q.dtype) * philox.keep_scale(dropout)  # fmt: skip
    return _attend(q, k, v, distance, visible, scale, alibi_slopes, keep)


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
    """Each sequence by itself; arguments as in `fastad_kernels.attention_varlen`."""
    out, _ = attention_varlen_with_lse(
        q, k, v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k, window=window, causal=causal,
        scale=scale, alibi_slopes=alibi_slopes, dropout=dropout, dropout_seed=dropout_seed,
    )  # fmt: skip
    return out


def attention_varlen_with_lse(
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
) -> tuple[Tensor, Tensor]:
    """As `attention_varlen`, and the natural log-sum-exp of the scores, (H, total_q)."""
    assert max_seqlen_q >= 0 <= max_seqlen_k  # only kernels need these: they size a grid
    queries, keys, values = (
        packed.split(cu_seqlens.diff().tolist())
        for packed, cu_seqlens in ((q, cu_seqlens_q), (k, cu_seqlens_k), (v, cu_seqlens_k))
    )
    parts = [
        attention_with_lse(
            *(x[None] for x in sequence), window=window, causal=causal, scale=scale,
            alibi_slopes=alibi_slopes, dropout=dropout, dropout_seed=dropout_seed,
            first_sequence=number,
        )
        for number, sequence in enumerate(zip(queries, keys, values, strict=True))
    ]  # fmt: skip
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs, dim=1)[0], torch.cat(lses, dim=2)[0]


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
    """Append to the ring, then attend; arguments as in `fastad_kernels.decode_attention`."""
    positions = cache.new_positions(q.shape[1])  # (B, T)
    if rope is not None:
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    cache.append(k, v)
    slot_positions = cache.slot_positions()  # (B, C)
    distance = positions[:, :, None] - slot_positions[:, None, :]  # (B, T, C)
    visible = (slot_positions[:, None, :] >= 0) & (distance >= 0) & (distance < window)
    keys, values = cache.read(cache.capacity, q.dtype)
    out, _ = _attend(q, keys, values, distance, visible, scale, alibi_slopes, None)
    return out


def embed(
    tables: Sequence[Tensor], indices: Sequence[Tensor], factors: Sequence[Tensor | None]
) -> Tensor:
    """Rows of tables, (rows, width) each, times factors (...), summed to (..., width)."""
    terms = []
    for table, index, factor in zip(tables, indices, factors, strict=True):
        rows = F.embedding(index, table)
        row = rows.squeeze(-2) if index.shape[-1] == 1 else rows.sum(dim=-2)
        terms.append(row if factor is None else factor.unsqueeze(-1) * row)
    return functools.reduce(torch.add, terms)


def projection(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: tuple[Tensor, Tensor] | None,
    residual: Tensor | None,
    epsilon: float,
) -> Tensor:
    """A linear map, (..., in) to (..., out), of x or its LayerNorm, added to a residual or not."""
    tokens = x if norm is None else F.layer_norm(x, x.shape[-1:], *norm, epsilon)
    y = F.linear(tokens, weight, bias)
    return y if residual is None else residual + y


def residual_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    epsilon: float,
) -> Tensor:
    """A pre-norm GELU MLP with its residual connection, (..., width) to (..., width)."""
    tokens = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, epsilon)
    return x + F.linear(F.gelu(F.linear(tokens, in_weight, in_bias)), out_weight, out_bias)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    distance: Tensor,
    visible: Tensor,
    scale: float,
    alibi_slopes: Tensor | None,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Masked softmax attention with its log-sum-exp, (B, H, T).

    `distance` and `visible` are (T, S) or (B, T, S); `keep`, (B, H, T, S), multiplies the weights.
    A row with no visible key gives 0 and -inf, and nothing in a key or value that no query sees,
    NaN included, reaches the result or a gradient.
    """
    scores, blind = _scores(q, k, distance, visible, scale, alibi_slopes)
    weights = scores.softmax(dim=-1)
    if keep is not None:
        weights = weights * keep.to(weights)
    lse = scores.to(torch.promote_types(scores.dtype, torch.float32)).logsumexp(dim=-1)
    v = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)  # (B, S, H, D)
    v = torch.where(_some(visible, dim=1), v, 0.0)
    out = torch.einsum("bhts,bshd->bthd", weights, v)
    return torch.where(_some(visible, dim=2), out, 0.0), lse.masked_fill(blind, float("-inf"))


def _band(q: Tensor, k: Tensor, *, window: int | None, causal: bool) -> tuple[Tensor, Tensor]:
    """How far behind each query each key stands, and whether it is visible, (T, S) both."""
    num_queries, num_keys = q.shape[1], k.shape[1]
    key_positions = torch.arange(num_keys, device=q.device)
    query_positions = torch.arange(num_queries, device=q.device) + num_keys - num_queries
    distance = query_positions[:, None] - key_positions[None, :]
    visible = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        visible &= distance >= 0
    if window is not None:
        visible &= distance < window
    return distance, visible


def _scores(
    q: Tensor,
    k: Tensor,
    distance: Tensor,
    visible: Tensor,
    scale: float,
    alibi_slopes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What the softmax is taken of, (B, H, T, S), and who sees nothing, (B or 1, 1, T)."""
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)  # (B, S, H, D)
    seeing = _some(visible, dim=2)
    q, k = torch.where(seeing, q, 0.0), torch.where(_some(visible, dim=1), k, 0.0)
    visible, distance = (x if x.ndim == 3 else x[None] for x in (visible, distance))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.to(scores)[:, None, None] * distance[:, None]
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    # A row of -inf has the softmax NaN; finite scores there keep the gradient finite, too.
    blind = ~seeing[:, None, :, 0, 0]  # (B or 1, 1, T)
    return scores.masked_fill(blind[..., None], 0.0), blind


def _some(visible: Tensor, dim: int) -> Tensor:
    """Which keys any query sees (dim 1), or which queries see any (2), (B or 1, S or T, 1, 1)."""
    visible = visible if visible.ndim == 3 else visible[None]
    return visible.any(dim=dim)[:, :, None, None]
