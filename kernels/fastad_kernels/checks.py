"""Checks of arguments: each error names the argument, its value and the rule.

Nothing here waits for a device: values of tensors are looked at on a CPU alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastad_kernels.cache import RingCache
from fastad_kernels.philox import drop_threshold

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_qkv(q: Tensor, k: Tensor, v: Tensor, *, packed: bool = False) -> None:
    """Shapes, dtypes and devices of (B, T, H, D) or packed (total, H, D) tensors fit together."""
    layout, num_dims = ("(total, H, D)", 3) if packed else ("(B, T, H, D)", 4)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != num_dims:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {layout}")
        if 0 in x.shape[-2:]:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; heads and head dim must not be 0")
        if x.dtype not in _DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise ValueError(f"{name} has dtype {x.dtype}; it must be one of {allowed}")
    if k.shape != v.shape:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} must have the same shape")
    if q.shape[-1] != k.shape[-1] or (not packed and q.shape[0] != k.shape[0]):
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch or head dim")
    if q.shape[-2] % k.shape[-2]:
        raise ValueError(f"{q.shape[-2]} query heads do not divide into {k.shape[-2]} key heads")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; give one dtype")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k, v are on {q.device}, {k.device}, {v.device}; give one device")


def check_window(window: int | None) -> None:
    """A window is None, or a whole number of tokens, the query's own included."""
    if window is None:
        return
    if not isinstance(window, int):
        raise ValueError(f"window={window} must be an integer")
    if window < 1:
        raise ValueError(f"window={window} must be at least 1 (the token itself)")


def check_scale(scale: float | None) -> None:
    """A scale is positive: kernels look for the largest score before they scale."""
    if scale is not None and not 0.0 < scale < math.inf:
        raise ValueError(f"scale={scale} must be positive and finite")


def check_slopes(q: Tensor, alibi_slopes: Tensor | None) -> None:
    """ALiBi's slopes are (H,) constants."""
    if alibi_slopes is None:
        return
    if alibi_slopes.shape != q.shape[-2:-1]:
        raise ValueError(f"alibi_slopes {tuple(alibi_slopes.shape)} must be ({q.shape[-2]},)")
    if not alibi_slopes.dtype.is_floating_point:
        raise ValueError(f"alibi_slopes has dtype {alibi_slopes.dtype}; it must be floating point")
    if alibi_slopes.device != q.device:
        raise ValueError(f"alibi_slopes is on {alibi_slopes.device}; q is on {q.device}")
    if alibi_slopes.requires_grad:
        raise ValueError("alibi_slopes requires a gradient, which is not computed; detach it")


def check_dropout(q: Tensor, dropout: float, dropout_seed: Tensor | None) -> None:
    """Dropout is a probability that kernels round to 1/256; a seed is one int64."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} must be in [0, 1)")
    if drop_threshold(dropout) > 255:
        raise ValueError(f"dropout={dropout} rounds to 256/256; 255/256 is the most")
    if dropout_seed is None:
        return
    if dropout_seed.dtype != torch.int64 or dropout_seed.numel() != 1:
        raise ValueError(
            f"dropout_seed is {dropout_seed.dtype} of shape {tuple(dropout_seed.shape)}; "
            "it must be int64 with one element"
        )
    if dropout_seed.device != q.device:
        raise ValueError(f"dropout_seed is on {dropout_seed.device}; q is on {q.device}")


def check_cu_seqlens(name: str, cu_seqlens: Tensor, packed: Tensor, max_seqlen: int) -> None:
    """Where packed sequences begin and end: 0, then ascending, up to the number of tokens.

    On a GPU the values are not looked at, since asking for them would make the host wait.

    Args:
        name: "q" or "k".
        cu_seqlens: (num_seqs + 1,) int32.
        packed: The tensor that it divides, (total, H, D).
        max_seqlen: Said to be the longest sequence.
    """
    label = f"cu_seqlens_{name}"
    if cu_seqlens.dtype != torch.int32:
        raise ValueError(f"{label} has dtype {cu_seqlens.dtype}; it must be int32")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"{label} has shape {tuple(cu_seqlens.shape)}; it must be (num_seqs + 1,)")
    if cu_seqlens.device != packed.device:
        raise ValueError(f"{label} is on {cu_seqlens.device}; {name} is on {packed.device}")
    if not isinstance(max_seqlen, int) or max_seqlen < 0:
        raise ValueError(f"max_seqlen_{name}={max_seqlen} must be an integer of at least 0")
    if cu_seqlens.device.type != "cpu" or torch.compiler.is_compiling():
        return
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0:
        raise ValueError(f"{label} starts at {first}; it must start at 0")
    lengths = cu_seqlens.diff()
    if (lengths < 0).any():
        raise ValueError(f"{label} must not descend; it goes down by {-int(lengths.min())}")
    if last != packed.shape[0]:
        raise ValueError(f"{label} ends at {last}; {name} has {packed.shape[0]} tokens")
    if max_seqlen < int(lengths.max()):
        raise ValueError(
            f"max_seqlen_{name}={max_seqlen} is below the longest sequence, {int(lengths.max())}"
        )


def check_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
) -> None:
    """A map of x, (..., in), by a weight, (out, in), with its bias, norm and residual."""
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} must be (..., in) and (out, in)"
        )
    out, size = weight.shape
    expected = {"bias": (bias, (out,)), "residual": (residual, (*x.shape[:-1], out))}
    if norm is not None:
        expected |= {"norm's scale": (norm[0], (size,)), "norm's shift": (norm[1], (size,))}
    for name, (y, shape) in expected.items():
        if y is not None and y.shape != shape:
            raise ValueError(f"{name} {tuple(y.shape)} must be {shape}")


def check_embedding(
    tables: Sequence[Tensor], indices: Sequence[Tensor], factors: Sequence[Tensor | None]
) -> None:
    """Tables (rows, width), indices (..., K) and factors (...), as many of each."""
    if not len(tables) == len(indices) == len(factors) >= 1:
        raise ValueError(
            f"{len(tables)} tables, {len(indices)} indices and {len(factors)} factors must be as "
            "many, at least one"
        )
    width, shape = tables[0].shape[-1:], indices[0].shape[:-1]
    for j, (table, index, factor) in enumerate(zip(tables, indices, factors, strict=True)):
        if table.ndim != 2 or table.shape[1:] != width or not table.shape[0]:
            raise ValueError(
                f"tables[{j}] {tuple(table.shape)} must be (rows, width), as wide as tables[0] "
                f"{tuple(tables[0].shape)}, with one row at least"
            )
        if index.dtype != torch.int64 or index.ndim < 1 or index.shape[:-1] != shape:
            raise ValueError(
                f"indices[{j}] {tuple(index.shape)} of {index.dtype} must be int64 and "
                f"({', '.join(map(str, (*shape, 'K')))})"
            )
        if index.device != table.device:
            raise ValueError(f"indices[{j}] on {index.device} must be on {table.device}, as tables")
        if factor is not None and factor.shape != shape:
            raise ValueError(f"factors[{j}] {tuple(factor.shape)} must be {tuple(shape)}")


def check_rows(**tensors: Tensor) -> None:
    """Kernels read the head dim of a token as one run of memory."""
    for name, x in tensors.items():
        if x.stride(-1) != 1 and x.shape[-1] > 1:
            raise ValueError(
                f"{name} has stride {x.stride(-1)} along its last dimension; it must be 1 "
                f"(call {name}.contiguous())"
            )


def check_ring(q: Tensor, k: Tensor, v: Tensor, cache: RingCache, window: int) -> None:
    """The ring holds the window of every new token, and q and k have its shape and device."""
    if window is None:
        raise ValueError("window=None must be an integer: a ring remembers a bounded context")
    num_new, capacity = q.shape[1], cache.capacity
    if capacity < window + num_new - 1:
        raise ValueError(
            f"window={window} needs a ring of at least {window + num_new - 1} tokens "
            f"({num_new} per step); capacity is {capacity}"
        )
    expected = (cache.keys.shape[0], num_new, *cache.keys.shape[2:])
    if k.shape != expected:
        raise ValueError(f"k has shape {tuple(k.shape)}; this ring takes {expected}")
    if q.device != cache.keys.device:
        raise ValueError(f"q is on {q.device}; the ring is on {cache.keys.device}")
    if cache.shared and v is not k:
        raise ValueError("this ring keeps keys alone; give the same tensor as k and v")


def check_rope(q: Tensor, rope: tuple[Tensor, Tensor] | None) -> None:
    """The cos and sin of T new tokens are (B or 1, T, D / 2), or (T, D / 2) for all batches."""
    if rope is None:
        return
    batch, num_new, _, head_dim = q.shape
    if head_dim % 2:
        raise ValueError(f"q has head dim {head_dim}; it must be even for rope")
    suffix = (num_new, head_dim // 2)
    for name, x in zip(("cos", "sin"), rope, strict=True):
        if x.shape not in (suffix, (1, *suffix), (batch, *suffix)):
            raise ValueError(
                f"rope: {name} has shape {tuple(x.shape)}; "
                f"it must be {(batch, *suffix)} or {(1, *suffix)}"
            )
        if x.device != q.device:
            raise ValueError(f"rope: {name} is on {x.device}; q is on {q.device}")
    if rope[0].shape != rope[1].shape:
        raise ValueError(
            f"rope: cos {tuple(rope[0].shape)} and sin {tuple(rope[1].shape)} "
            "must have the same shape"
        )


def check_ring_layout(cache: RingCache) -> None:
    """Triton's kernel reads a token's heads as one run of memory."""
    for name, x in (("keys", cache.keys), ("values", cache.values)):
        if not x.is_contiguous():
            raise ValueError(
                f"cache.{name} has strides {x.stride()}; Triton's kernel needs a token's heads "
                "side by side: RingCache(..., order='token')"
            )


def check_no_grad(**tensors: Tensor) -> None:
    """Nothing flows back through a ring that later steps overwrite."""
    if not torch.is_grad_enabled():
        return
    for name, x in tensors.items():
        if x.requires_grad:
            raise ValueError(
                f"{name} requires a gradient, which decoding does not compute; "
                "call it under torch.no_grad()"
            )
