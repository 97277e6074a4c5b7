"""The two public calls: arguments are checked, then a named implementation does the work."""

import logging
import math
from functools import cache as once
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from fastad_kernels import reference, sdpa
from fastad_kernels.cache import RingCache

Implementation = Literal["auto", "sdpa", "reference"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)

_MODULES: dict[str, ModuleType] = {"sdpa": sdpa, "reference": reference}
_LOGGER = logging.getLogger(__name__)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    causal: bool = True,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    dropout: float = 0.0,
    impl: Implementation = "auto",
) -> Tensor:
    """Softmax attention over whole sequences, each query seeing at most `window` tokens.

    With `T` queries and `S` keys the last query is aligned with the last key. A query that sees
    no key gives 0.

    Args:
        q: Queries, (B, T, H, D).
        k: Keys, (B, S, Hkv, D); H is a multiple of Hkv.
        v: Values, (B, S, Hkv, D).
        window: Tokens that a query may see, itself included; None for all.
        causal: Whether later keys are hidden.
        scale: Of the scores; 1 / sqrt(D) by default.
        alibi_slopes: (H,), or None for no linear bias.
        dropout: Probability of dropping an attention weight.
        impl: A named implementation never falls back; "auto" logs its choice once.

    Returns:
        (B, T, H, D), dtype of q.

    Raises:
        ValueError: If shapes, dtypes or settings do not fit together.
    """
    _check_heads(q, k, v, alibi_slopes)
    if window is not None and window < 1:
        raise ValueError(f"window={window} must be at least 1 (the token itself)")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} must be in [0, 1)")
    out: Tensor = _module(impl, q.device).attention(
        q, k, v, window=window, causal=causal, scale=_scale(scale, q),
        alibi_slopes=alibi_slopes, dropout=dropout,
    )  # fmt: skip
    return out


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: RingCache,
    *,
    window: int,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """Append new tokens to the ring and attend to the band behind them.

    Args:
        q: Queries, (B, T, H, D).
        k: New keys, (B, T, Hkv, D), written into `cache` at `cache.lengths`, which advances by T.
        v: New values, (B, T, Hkv, D).
        cache: Mutated.
        window: Tokens that a query may see, itself included.
        scale: Of the scores; 1 / sqrt(D) by default.
        alibi_slopes: (H,), or None for no linear bias.
        rope: cos and sin of the new tokens, (B, T, D / 2), applied to q and k; or None.
        impl: A named implementation never falls back; "auto" logs its choice once.

    Returns:
        (B, T, H, D), dtype of q.

    Raises:
        ValueError: If the ring is smaller than window + T - 1, or shapes do not fit it.
    """
    _check_heads(q, k, v, alibi_slopes)
    num_new = q.shape[1]
    if window < 1:
        raise ValueError(f"window={window} must be at least 1 (the token itself)")
    if cache.capacity < window + num_new - 1:
        raise ValueError(
            f"window={window} needs a ring of at least {window + num_new - 1} tokens "
            f"({num_new} per step); capacity is {cache.capacity}"
        )
    expected = (cache.keys.shape[0], num_new, *cache.keys.shape[2:])
    if k.shape != expected:
        raise ValueError(f"k has shape {tuple(k.shape)}; this ring takes {expected}")
    out: Tensor = _module(impl, q.device).decode_attention(
        q, k, v, cache, window=window, scale=_scale(scale, q),
        alibi_slopes=alibi_slopes, rope=rope,
    )  # fmt: skip
    return out


def _module(impl: str, device: torch.device) -> ModuleType:
    name = _choose(device.type) if impl == "auto" else impl
    if name not in _MODULES:
        raise ValueError(f"impl={impl!r} must be one of {', '.join(IMPLEMENTATIONS)}")
    return _MODULES[name]


@once
def _choose(device_type: str) -> str:
    _LOGGER.info("attention on %s: sdpa (PyTorch's fused kernels, banded by blocks)", device_type)
    return "sdpa"


def _scale(scale: float | None, q: Tensor) -> float:
    return 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale


def _check_heads(q: Tensor, k: Tensor, v: Tensor, alibi_slopes: Tensor | None) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be (B, T, H, D)")
    if k.shape != v.shape:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} must have the same shape")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch or head dim")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads do not divide into {k.shape[2]} key heads")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; give one dtype")
    if alibi_slopes is not None and alibi_slopes.shape != (q.shape[2],):
        raise ValueError(f"alibi_slopes {tuple(alibi_slopes.shape)} must be ({q.shape[2]},)")
