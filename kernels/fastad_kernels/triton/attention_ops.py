"""Attention as PyTorch operators: autograd, fake tensors for torch.compile, and the two calls.

Dense and packed batches share the operators `fastad::attention` and `fastad::attention_backward`.
Under autocast they do as they do elsewhere and compute in the dtype of q, k and v, which is what
autocast made the projections before them return; nothing is cast here, and mixed dtypes are
refused by the public calls.
"""

from typing import Any

import torch
from torch import Tensor

from fastad_kernels.triton import backward, forward


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
    out, _ = attention_op(
        q, k, v, None, None, alibi_slopes, dropout_seed,
        q.shape[1], k.shape[1], window, causal, scale, dropout,
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
    window: int | None,
    causal: bool,
    scale: float,
    alibi_slopes: Tensor | None,
    dropout: float,
    dropout_seed: Tensor | None,
) -> Tensor:
    """Each sequence by itself; arguments as in `fastad_kernels.attention_varlen`."""
    out, _ = attention_op(
        q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed,
        max_seqlen_q, max_seqlen_k, window, causal, scale, dropout,
    )  # fmt: skip
    return out


@torch.library.custom_op("fastad::attention", mutates_args=())
def attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    dropout_seed: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    window: int | None,
    causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Attention and its base-2 log-sum-exp; shapes as in `forward.launch`.

    Differentiable once, with respect to q, k and v; the log-sum-exp takes no gradient.
    """
    return forward.launch(
        q, k, v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k, window=window, causal=causal, scale=scale,
        alibi_slopes=alibi_slopes, dropout=dropout, dropout_seed=dropout_seed,
    )  # fmt: skip


@torch.library.custom_op("fastad::attention_backward", mutates_args=())
def attention_backward_op(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse2: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    dropout_seed: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    window: int | None,
    causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; shapes as in `backward.launch`. Itself not differentiable."""
    return backward.launch(
        grad_out, q, k, v, out, lse2, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k, window=window, causal=causal,
        scale=scale, alibi_slopes=alibi_slopes, dropout=dropout, dropout_seed=dropout_seed,
    )  # fmt: skip


@attention_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    lse_shape = (*q.shape[:-3], q.shape[-2], q.shape[-3])  # (B, H, T), packed (H, total_q)
    return q.new_empty(q.shape), q.new_empty(lse_shape, dtype=lse_dtype)


@attention_backward_op.register_fake
def _(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed, *settings = inputs
    out, lse2 = output
    ctx.mark_non_differentiable(lse2)
    ctx.save_for_backward(
        q, k, v, out, lse2, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed
    )
    ctx.settings = settings


def _backward(ctx: Any, grad_out: Tensor, grad_lse2: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients = attention_backward_op(grad_out, *ctx.saved_tensors, *ctx.settings)
    return *gradients, *(None,) * (4 + len(ctx.settings))


def _second_backward(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(
        "impl='triton' gives first derivatives only; second ones (create_graph=True, gradient "
        "penalties, Hessians) need impl='reference'"
    )


attention_op.register_autograd(_backward, setup_context=_setup_context)
attention_backward_op.register_autograd(_second_backward)
