"""The one seam between the model and the attention kernels."""

from dataclasses import dataclass
from typing import Literal

from fastad_kernels import (
    Implementation,
    RingCache,
    alibi_slopes,
    apply_rope,
    attention,
    decode_attention,
    rope_angles,
)
from torch import Tensor

Positions = Literal["none", "rope", "alibi", "learned"]


@dataclass(frozen=True)
class Band:
    """What the attention of every layer has in common in one forward pass.

    Attributes:
        window: `W`, tokens that a query may see, itself included.
        rope: cos and sin of the tokens' positions, (T, D / 2) or (B, T, D / 2), or None.
        slopes: ALiBi's slopes, (H,), or None.
        dropout: Of the attention weights; 0 outside training.
        impl: A named implementation never falls back; "auto" logs its choice once.
    """

    window: int
    rope: tuple[Tensor, Tensor] | None = None
    slopes: Tensor | None = None
    dropout: float = 0.0
    impl: Implementation = "auto"


def make_band(
    scheme: Positions,
    positions: Tensor,
    *,
    window: int,
    num_heads: int,
    head_dim: int,
    rope_base: float,
    dropout: float = 0.0,
    impl: Implementation = "auto",
) -> Band:
    """Prepare what the layers share for tokens at `positions`, (T,) or (B, T) int64.

    Only "rope" and "alibi" reach attention: "learned" positions are part of the embedding, and
    "none" leaves order to causality.
    """
    rope = rope_angles(positions, head_dim, base=rope_base) if scheme == "rope" else None
    slopes = alibi_slopes(num_heads, device=positions.device) if scheme == "alibi" else None
    return Band(window=window, rope=rope, slopes=slopes, dropout=dropout, impl=impl)


def attend(q: Tensor, k: Tensor, v: Tensor, band: Band, cache: RingCache | None = None) -> Tensor:
    """Banded causal attention: over the whole sequence, or of new tokens over their ring.

    Args:
        q: (B, T, H, D).
        k: (B, T, Hkv, D).
        v: (B, T, Hkv, D).
        band: What the layers share.
        cache: If given, k and v are appended to it, and queries see the band behind them.

    Returns:
        (B, T, H, D).
    """
    if cache is not None:
        return decode_attention(
            q, k, v, cache, window=band.window, alibi_slopes=band.slopes, rope=band.rope,
            impl=band.impl,
        )  # fmt: skip
    if band.rope is not None:
        q, k = apply_rope(q, *band.rope), apply_rope(k, *band.rope)
    return attention(
        q, k, v, window=band.window, alibi_slopes=band.slopes, dropout=band.dropout,
        impl=band.impl,
    )  # fmt: skip
