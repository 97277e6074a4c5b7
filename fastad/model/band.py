"""What the attention of all layers has in common in one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastad.model.kernels import Implementation, Positions, alibi_slopes, rope_angles
from fastad.model.share import Share

Observer = Callable[[Tensor, Tensor, Tensor, Tensor], None]  # see `Band`


@dataclass(frozen=True)
class Band:
    """What the attention of every layer has in common in one forward pass.

    Attributes:
        window: `W`, tokens that a query may see, itself included.
        rope: cos and sin of the tokens' positions, (T, D / 2) or (B, T, D / 2), or None.
        slopes: ALiBi's slopes, (H,), or None.
        dropout: Of the attention weights; 0 outside training.
        bounds: Where contexts of their own begin and end in all rows' tokens one after another,
            (contexts + 1,) int32; None where each row is one.
        share: Of the batch that dropout draws for; None: the rows are all there are.
        impl: A named implementation never falls back; "auto" logs its choice once.
        observer: Is shown, layer by layer, what attends over whole sequences, and what came of it:
            queries, keys and values, the first two as they are compared, and the result.
    """

    window: int
    rope: tuple[Tensor, Tensor] | None = None
    slopes: Tensor | None = None
    dropout: float = 0.0
    bounds: Tensor | None = None
    share: Share | None = None
    impl: Implementation = "auto"
    observer: Observer | None = None


def make_band(
    scheme: Positions,
    positions: Tensor | None,
    *,
    window: int,
    num_heads: int,
    head_dim: int,
    rope_base: float,
    device: torch.device,
    dropout: float = 0.0,
    bounds: Tensor | None = None,
    share: Share | None = None,
    impl: Implementation = "auto",
    observer: Observer | None = None,
) -> Band:
    """Prepare what the layers share for tokens at `positions`, (T,) or (B, T) int64.

    Only "rope" and "alibi" reach attention, and only "rope" by positions: "learned" ones are part
    of the embedding, and "none" leaves order to causality.
    """
    rope = None
    if scheme == "rope":
        assert positions is not None
        rope = rope_angles(positions, head_dim, base=rope_base)
    slopes = alibi_slopes(num_heads, device=device) if scheme == "alibi" else None
    return Band(
        window=window, rope=rope, slopes=slopes, dropout=dropout, bounds=bounds, share=share,
        impl=impl, observer=observer,
    )  # fmt: skip
