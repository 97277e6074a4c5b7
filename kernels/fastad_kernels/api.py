"""Attention's public calls: arguments are checked, then a named implementation does the work."""

import math
from types import ModuleType

import torch
from torch import Tensor

from fastad_kernels import checks
from fastad_kernels.cache import RingCache
from fastad_kernels.dispatch import Implementation, find_implementation


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
    dropout_seed: Tensor | None = None,
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
        scale: Of the scores, positive; 1 / sqrt(D) by default.
        alibi_slopes: (H,), or None for no linear bias; scores fall by slope times distance.
        dropout: Probability of dropping an attention weight. "triton" and "reference" round it to
            1/256 and make the mask that `philox.keep_mask` specifies; "sdpa" and "flash" draw
            their own from PyTorch's default generator.
        dropout_seed: One int64 on the device of q, read there and not by the host; by default
            drawn from PyTorch's default generator.
        impl: A named implementation never falls back; "auto" logs its choice once.

    Returns:
        (B, T, H, D), dtype of q.

    Raises:
        ValueError: If shapes, dtypes or settings do not fit together, or `impl` cannot work here.
    """
    checks.check_qkv(q, k, v)
    _check_settings(q, window, scale, alibi_slopes, dropout, dropout_seed)
    module = find_implementation(impl, q, dropout=dropout)
    out: Tensor = module.attention(
        q, k, v, window=window, causal=causal, scale=_scale(scale, q),
        alibi_slopes=_packed(alibi_slopes),
        dropout=dropout, dropout_seed=_seed(module, q, dropout, dropout_seed),
    )  # fmt: skip
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
    window: int | None = None,
    causal: bool = True,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    dropout: float = 0.0,
    dropout_seed: Tensor | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """As `attention`, over sequences of different lengths packed one after the other.

    Sequence i is tokens cu_seqlens[i] to cu_seqlens[i + 1] - 1. Each attends to itself alone,
    its last query aligned with its last key.

    Args:
        q: Queries, (total_q, H, D).
        k: Keys, (total_k, Hkv, D); H is a multiple of Hkv.
        v: Values, (total_k, Hkv, D).
        cu_seqlens_q: (num_seqs + 1,) int32: 0, then the number of queries up to the end of each
            sequence. On a CPU the values are checked; on a GPU only shape and dtype are, since
            to look at values would make the host wait for the device.
        cu_seqlens_k: As cu_seqlens_q, of keys.
        max_seqlen_q: At least the longest query sequence.
        max_seqlen_k: At least the longest key sequence.
        window: As in `attention`, like everything that follows.
        causal: As there.
        scale: As there.
        alibi_slopes: As there.
        dropout: As there.
        dropout_seed: As there.
        impl: As there.

    Returns:
        (total_q, H, D), dtype of q.

    Raises:
        ValueError: If shapes, dtypes or settings do not fit together, or `impl` cannot work here.
    """
    checks.check_qkv(q, k, v, packed=True)
    checks.check_cu_seqlens("q", cu_seqlens_q, q, max_seqlen_q)
    checks.check_cu_seqlens("k", cu_seqlens_k, k, max_seqlen_k)
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            f"cu_seqlens_q {tuple(cu_seqlens_q.shape)} and cu_seqlens_k "
            f"{tuple(cu_seqlens_k.shape)} must have the same shape"
        )
    _check_settings(q, window, scale, alibi_slopes, dropout, dropout_seed)
    module = find_implementation(impl, q, dropout=dropout)
    out: Tensor = module.attention_varlen(
        q, k, v, cu_seqlens_q=cu_seqlens_q.contiguous(), cu_seqlens_k=cu_seqlens_k.contiguous(),
        max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k, window=window, causal=causal,
        scale=_scale(scale, q), alibi_slopes=_packed(alibi_slopes), dropout=dropout,
        dropout_seed=_seed(module, q, dropout, dropout_seed),
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
        rope: cos and sin of the new tokens, (B or 1, T, D / 2), applied to q and k; or None.
        impl: A named implementation never falls back; "auto" logs its choice once. "triton" needs
            a ring of order "token", which is what GPUs get by default, "native" one of order
            "column"; neither computes a gradient.

    Returns:
        (B, T, H, D), dtype of q.

    Raises:
        ValueError: If the ring is smaller than window + T - 1, shapes do not fit it, or `impl`
            cannot work here.
    """
    checks.check_qkv(q, k, v)
    checks.check_window(window)
    checks.check_scale(scale)
    checks.check_slopes(q, alibi_slopes)
    checks.check_ring(q, k, v, cache, window)
    checks.check_rope(q, rope)
    out: Tensor = find_implementation(impl, q, ring=cache).decode_attention(
        q, k, v, cache, window=window, scale=_scale(scale, q),
        alibi_slopes=_packed(alibi_slopes), rope=rope,
    )  # fmt: skip
    return out


def _check_settings(
    q: Tensor,
    window: int | None,
    scale: float | None,
    alibi_slopes: Tensor | None,
    dropout: float,
    dropout_seed: Tensor | None,
) -> None:
    checks.check_window(window)
    checks.check_scale(scale)
    checks.check_slopes(q, alibi_slopes)
    checks.check_dropout(q, dropout, dropout_seed)


def _packed(alibi_slopes: Tensor | None) -> Tensor | None:
    """Without gaps between the slopes, as kernels read them."""
    return None if alibi_slopes is None else alibi_slopes.contiguous()


def _scale(scale: float | None, q: Tensor) -> float:
    return 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale


def _seed(
    module: ModuleType, q: Tensor, dropout: float, dropout_seed: Tensor | None
) -> Tensor | None:
    """The seed of the mask, if the implementation makes it by one: given, or drawn."""
    if dropout == 0.0:
        return None
    if not module.DROPOUT_BY_SEED:
        if dropout_seed is not None:
            raise ValueError(
                f"dropout_seed is given, but {module.__name__} draws from PyTorch's generator; "
                "leave it out, or take impl='triton' or 'reference'"
            )
        return None
    if dropout_seed is None:
        return torch.randint(2**63 - 1, (1,), device=q.device)
    return dropout_seed
