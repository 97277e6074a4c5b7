"""Whole-sequence attention by the C++ kernels, as PyTorch operators with a gradient."""

import ctypes
from ctypes import c_double, c_int64, c_void_p
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastad_kernels import checks
from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.common import as_function, at_once, call, refuse_second_backward
from fastad_kernels.native.heads import make_beside

DROPOUT_BY_SEED = False


class _Strides(ctypes.Structure):
    _fields_ = [(name, c_int64) for name in ("sequence", "token", "head")]


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("num_sequences", "num_heads", "num_kv_heads", "dim")),
        *((name, c_int64) for name in ("num_queries", "num_keys")),
        *((name, c_void_p) for name in ("cu_queries", "cu_keys")),
        *((name, c_int64) for name in ("window", "causal")),
        ("scale", c_double),
        ("slopes", c_void_p),
        *((name, _Strides) for name in ("q", "k", "v", "out", "dq", "dkv")),
        *((name, c_int64) for name in ("row_sequence", "row_head")),
    ]


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
    """As the reference, with the same arguments; without dropout."""
    _check_dropout(dropout, dropout_seed)
    return _attend(q, k, v, None, None, alibi_slopes, window, causal, scale)


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
    """As the reference, with the same arguments; without dropout."""
    assert max_seqlen_q >= 0 <= max_seqlen_k  # only GPU kernels need these: they size a grid
    _check_dropout(dropout, dropout_seed)
    return _attend(q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, window, causal, scale)


def _attend(*inputs: Any) -> Tensor:
    out: Tensor = call(
        inputs[:6], inputs[6:], forward=_forward, function=_Attention, op=attention_op
    )[0]
    return out


def _check_dropout(dropout: float, dropout_seed: Tensor | None) -> None:
    assert dropout_seed is None
    if dropout > 0.0:
        raise ValueError(
            f"dropout={dropout}: impl='native' has none; take impl='sdpa' or 'reference'"
        )


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    window: int | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        # While PyTorch compiles, nobody has looked at their values, which the kernels trust.
        checks.check_cu_seqlens("q", cu_seqlens_q, q, q.shape[0])
        checks.check_cu_seqlens("k", cu_seqlens_k, k, k.shape[0])
    q, k, v = map(_with_rows, (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    top, total = (torch.empty(_row_shape(q), dtype=q.dtype, device=q.device) for _ in range(2))
    slopes = None if alibi_slopes is None else alibi_slopes.float().contiguous()
    shape = _shape(q, k, v, cu_seqlens_q, cu_seqlens_k, slopes, window, causal, scale)
    library().fastad_attention_forward(
        ctypes.byref(shape), *(x.data_ptr() for x in (q, k, v, out)), addresses((top, total)),
        torch.get_num_threads(),
    )  # fmt: skip
    return out, top, total


def _gradients(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    top: Tensor,
    total: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    window: int | None,
    causal: bool,
    scale: float,
    *,
    may_share: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = map(_with_rows, (q, k, v))
    grad_out, out = grad_out.contiguous(), out.contiguous()
    dq, dk, dv = make_beside(q, k, v) if may_share else map(torch.empty_like, (q, k, v))
    slopes = None if alibi_slopes is None else alibi_slopes.float().contiguous()
    shape = _shape(q, k, v, cu_seqlens_q, cu_seqlens_k, slopes, window, causal, scale)
    shape.dq, shape.dkv = _strides(dq), _strides(dk)
    tensors = (q, k, v, out, top, total, grad_out, dq, dk, dv)
    library().fastad_attention_backward(
        ctypes.byref(shape), addresses(tensors), torch.get_num_threads()
    )
    return dq, dk, dv


@torch.library.custom_op("fastad::native_attention", mutates_args=())
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    window: int | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention and, of each row, the largest base-2 score and the sum of powers above it.

    A sum is (B, H, T), packed (H, total), and keeps what a log-sum-exp would round away.
    Differentiable once, with respect to q, k and v; the sums take no gradient.
    """
    return _forward(q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, window, causal, scale)


@torch.library.custom_op("fastad::native_attention_backward", mutates_args=())
def attention_backward_op(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    top: Tensor,
    total: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    window: int | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. Itself not differentiable."""
    sums, lengths = (out, top, total), (cu_seqlens_q, cu_seqlens_k)
    return _gradients(grad_out, q, k, v, *sums, *lengths, alibi_slopes, window, causal, scale)


def _row_shape(q: Tensor) -> tuple[int, ...]:
    """Of a number per query: (B, H, T), packed (H, total)."""
    return (*q.shape[:-3], q.shape[-2], q.shape[-3])


def _with_rows(x: Tensor) -> Tensor:
    """The kernels read a token's head as one run of memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _strides(x: Tensor) -> _Strides:
    return _Strides(x.stride(0) if x.ndim == 4 else 0, x.stride(-3), x.stride(-2))


def _shape(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    slopes: Tensor | None,
    window: int | None,
    causal: bool,
    scale: float,
) -> _Shape:
    num_heads, dim = q.shape[-2:]
    num_queries, num_keys = q.shape[-3], k.shape[-3]
    row = num_heads * dim
    return _Shape(
        num_sequences=q.shape[0] if cu_seqlens_q is None else len(cu_seqlens_q) - 1,
        num_heads=num_heads, num_kv_heads=k.shape[-2], dim=dim,
        num_queries=num_queries, num_keys=num_keys,
        cu_queries=_pointer(cu_seqlens_q), cu_keys=_pointer(cu_seqlens_k),
        window=window or 0, causal=causal, scale=scale, slopes=_pointer(slopes),
        q=_strides(q), k=_strides(k), v=_strides(v),
        out=_Strides(num_queries * row if q.ndim == 4 else 0, row, dim),
        row_sequence=num_heads * num_queries if q.ndim == 4 else 0, row_head=num_queries,
    )  # fmt: skip


@attention_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(_row_shape(q)), q.new_empty(_row_shape(q))


@attention_backward_op.register_fake
def _(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, *settings = inputs
    out, top, total = output
    ctx.mark_non_differentiable(top, total)
    ctx.save_for_backward(q, k, v, out, top, total, cu_seqlens_q, cu_seqlens_k, alibi_slopes)
    ctx.settings = settings


def _backward(ctx: Any, grad_out: Tensor, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    tensors = (grad_out, *ctx.saved_tensors)
    # The operator refuses a second derivative.
    direct = at_once(*tensors) and not torch.is_grad_enabled()
    gradients: Any = partial(_gradients, may_share=True) if direct else attention_backward_op
    return *gradients(*tensors, *ctx.settings), *(None,) * (3 + len(ctx.settings))


attention_op.register_autograd(_backward, setup_context=_setup_context)
attention_backward_op.register_autograd(refuse_second_backward)

_Attention = as_function(_forward, _setup_context, _backward)
