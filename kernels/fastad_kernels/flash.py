"""Attention through the flash-attn package (Dao 2023, arXiv 2307.08691), where it is installed.

Only what it computes in the same way is passed on; the rest is refused, never done differently.
Its masks are aligned as ours are since its version 2.1, and its dropout has a generator of its own.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.cache import RingCache
from fastad_kernels.checks import check_rows

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
    """As the reference, with the same arguments; dropout is flash-attn's own.

    Raises:
        ValueError: If flash-attn is not installed or cannot do this; the message says why.
    """
    assert dropout_seed is None
    check_rows(q=q, k=k, v=v)
    out: Tensor = _package(q, causal, alibi_slopes).flash_attn_func(
        q, k, v, **_settings(window, causal, scale, alibi_slopes, dropout)
    )
    return out


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
    """As the reference, with the same arguments; dropout is flash-attn's own.

    Raises:
        ValueError: If flash-attn is not installed or cannot do this; the message says why.
    """
    assert dropout_seed is None
    check_rows(q=q, k=k, v=v)
    out: Tensor = _package(q, causal, alibi_slopes).flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        **_settings(window, causal, scale, alibi_slopes, dropout),
    )  # fmt: skip
    return out


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
    """Refused: flash-attn's caches are not rings.

    Raises:
        ValueError: Always.
    """
    raise ValueError("impl='flash' cannot decode from a ring cache; take 'triton' or 'sdpa'")


def _package(q: Tensor, causal: bool, alibi_slopes: Tensor | None) -> ModuleType:
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"q has dtype {q.dtype}; impl='flash' takes float16 and bfloat16")
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        raise ValueError(f"q has head dim {q.shape[-1]}; impl='flash' takes multiples of 8 to 256")
    if alibi_slopes is not None and not causal:
        # Its bias is -slope * |distance|; ours rises with keys that are ahead.
        raise ValueError("alibi_slopes with causal=False is another bias in impl='flash'")
    if q.device.type != "cuda":
        raise ValueError(f"q is on {q.device}; impl='flash' runs on GPUs alone")
    try:
        import flash_attn
    except ImportError as error:
        raise ValueError(f"impl='flash' needs the package flash-attn: {error}") from error
    module: ModuleType = flash_attn
    return module


def _settings(
    window: int | None, causal: bool, scale: float, alibi_slopes: Tensor | None, dropout: float
) -> dict[str, Any]:
    """The settings in flash-attn's words; a window of W looks W - 1 tokens back."""
    left = -1 if window is None else window - 1
    return {
        "dropout_p": dropout,
        "softmax_scale": scale,
        "causal": causal,
        "window_size": (left, 0 if causal else -1),
        "alibi_slopes": None if alibi_slopes is None else alibi_slopes.float(),
    }
