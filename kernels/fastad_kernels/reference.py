"""The specification: attention in plain PyTorch, any dtype, any device, differentiable.

Everything else in this package is held to these two functions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad_kernels.cache import RingCache
from fastad_kernels.positions import apply_rope


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
) -> Tensor:
    """Softmax attention over whole sequences; arguments as in `fastad_kernels.attention`.

    With `T` queries and `S` keys the last query is aligned with the last key: query t stands at
    position t + S - T.
    """
    num_queries, num_keys = q.shape[1], k.shape[1]
    key_positions = torch.arange(num_keys, device=q.device)
    query_positions = torch.arange(num_queries, device=q.device) + num_keys - num_queries
    distance = query_positions[:, None] - key_positions[None, :]  # (T, S)
    visible = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        visible &= distance >= 0
    if window is not None:
        visible &= distance < window
    return _attend(q, k, v, distance, visible, scale, alibi_slopes, dropout)


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
    keys, values = cache.keys.to(q.dtype), cache.values.to(q.dtype)
    return _attend(q, keys, values, distance, visible, scale, alibi_slopes, 0.0)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    distance: Tensor,
    visible: Tensor,
    scale: float,
    alibi_slopes: Tensor | None,
    dropout: float,
) -> Tensor:
    """Masked softmax attention; `distance` and `visible` are (T, S) or (B, T, S).

    A row with no visible key gives 0, and nothing in an invisible key or value, NaN included,
    reaches the result.
    """
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))  # (B, S, H, D)
    seen = visible.any(dim=-2)  # (S,) or (B, S): keys that some query may look at
    v = torch.where(seen.expand(v.shape[:2])[:, :, None, None], v, 0.0)
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale
    visible, distance = (x if x.ndim == 3 else x[None] for x in (visible, distance))
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.to(scores)[:, None, None] * distance[:, None]
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    # A row of -inf has the softmax NaN; finite scores there keep the gradient finite, too.
    empty = ~visible.any(dim=-1)[:, None, :, None]
    weights = scores.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty, 0.0)
    weights = F.dropout(weights, dropout, training=dropout > 0.0)
    return torch.einsum("bhts,bshd->bthd", weights, v)
