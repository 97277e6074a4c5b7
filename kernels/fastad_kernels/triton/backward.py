"""Gradients of attention: dQ, then dK and dV; two kernels, no atomics, hence bitwise repeatable.

Weights are recomputed from the saved log-sum-exp (Dao et al. 2022, arXiv 2205.14135, algorithm 4),
and each program owns the rows that it writes: a block of queries, or a block of keys, for which it
walks the query heads that share them. Only tiles at the edges of the band are masked. Rows and keys
that see nothing of each other are read as zeros there, so that a NaN in them stays where it is.

With P the weights, dO the gradient of the output and delta = rowsum(dO * O),

    dV = P^T dO,   dS = P * (dO V^T - delta),   dQ = scale * dS K,   dK = scale * dS^T Q.

Dropout with keep mask Z turns P into Z * P * keep_scale in dV, and dO V^T into that product masked
and scaled alike in dS; `keep_scale` is left out until the end, and delta is divided by it.

ALiBi's slope * (key - query) is split into a part of the row and one of the column, counted from
the block, which costs one operation per score instead of three; the parts are rounded before they
cancel, which 16-bit arguments do not notice, but 32-bit ones would.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastad_kernels.philox import drop_threshold, keep_scale
from fastad_kernels.triton.backward_dkdv import _attention_backward_dkdv_kernel
from fastad_kernels.triton.backward_dq import _attention_backward_dq_kernel
from fastad_kernels.triton.backward_shared import LOG2_E
from fastad_kernels.triton.tiles import Tile, current_architecture, dot_precision, find_tile


def launch(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse2: Tensor,
    *,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    window: int | None,
    causal: bool,
    scale: float,
    alibi_slopes: Tensor | None,
    dropout: float,
    dropout_seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the two backward kernels, dQ first, which also computes the delta that dK/dV reads.

    Args:
        grad_out: Gradient of `out`, of its shape and dtype; any strides.
        q: (B, T, H, D), or packed (total_q, H, D); any strides.
        k: (B, S, Hkv, D), or packed (total_k, Hkv, D).
        v: As k.
        out: What the forward kernel returned.
        lse2: What it returned beside it, base 2: (B, H, T), or packed (H, total_q).
        cu_seqlens_q: As in `forward.launch`, like all that follow.
        cu_seqlens_k: int32 (num_seqs + 1,) where packed; None where dense.
        max_seqlen_q: The longest query sequence; T where dense.
        max_seqlen_k: The longest key sequence; S where dense.
        window: Tokens that a query may see, itself included; None for all.
        causal: Whether later keys are hidden.
        scale: Of the scores.
        alibi_slopes: (H,) or None.
        dropout: Probability, rounded to 1/256.
        dropout_seed: One int64, the same as in the forward pass.

    Returns:
        Gradients of q, k and v: contiguous, of their shapes and dtypes. Queries that see no key,
        keys that no query sees, and packed tokens beyond the last sequence get 0.
    """
    packed = cu_seqlens_q is not None
    num_heads, num_kv_heads, head_dim = q.shape[-2], k.shape[-2], q.shape[-1]
    out, lse2 = out.contiguous(), lse2.contiguous()
    grad_out, q, k, v = map(_readable, (grad_out, q, k, v))
    # Only a packed batch can have tokens that no program owns.
    allocate = torch.zeros if packed else torch.empty
    dq, dk, dv = (allocate(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if q.numel() == 0 or k.numel() == 0:
        return dq.zero_(), dk.zero_(), dv.zero_()
    delta = torch.empty(lse2.shape, dtype=lse2.dtype, device=q.device)
    batch = cu_seqlens_q.shape[0] - 1 if cu_seqlens_q is not None else q.shape[0]
    windowed = window is not None and window < max_seqlen_k
    threshold, keep = drop_threshold(dropout), keep_scale(dropout)
    strides = [stride for x in (q, k, v, grad_out) for stride in _strides(x)]
    strides += [0 if packed else lse2.stride(0), lse2.stride(-2)]
    sizes = (max_seqlen_q, max_seqlen_k, window if windowed else 0)
    settings = {
        "NUM_HEADS": num_heads, "GROUP": num_heads // num_kv_heads, "HEAD_DIM": head_dim,
        "CAUSAL": causal, "WINDOW": windowed, "ALIBI": alibi_slopes is not None,
        "DROPOUT": threshold > 0, "PACKED": packed, "PRECISION": dot_precision(q.dtype),
        "ACC": tl.float64 if q.dtype == torch.float64 else tl.float32, "enable_fp_fusion": True,
    }  # fmt: skip
    # Triton launches on the current device, whatever the tensors are on.
    with torch.cuda.device_of(q):
        architecture = current_architecture()

        suffix = "_dropout" if threshold > 0 else ""
        tile, key_tile = (
            find_tile(architecture, head_dim, which + suffix, q.element_size())
            for which in ("dq", "dkdv")
        )
        split_bias = alibi_slopes is not None and q.element_size() == 2
        tile_lse2 = torch.empty_like(lse2) if split_bias else lse2

        num_blocks = triton.cdiv(max_seqlen_q, tile.block_m)
        _attention_backward_dq_kernel[(num_blocks * batch * num_heads,)](
            q, k, v, out, grad_out, lse2, tile_lse2, delta, dq,
            alibi_slopes, dropout_seed, cu_seqlens_q, cu_seqlens_k, *strides,
            num_blocks, *sizes, threshold, scale * LOG2_E.value, scale * keep, 1.0 / keep,
            **settings, **_constants(tile), ROW_TILE=key_tile.block_m,
        )  # fmt: skip
        num_blocks = triton.cdiv(max_seqlen_k, key_tile.block_n)
        _attention_backward_dkdv_kernel[(num_blocks * batch * num_kv_heads,)](
            q, k, v, grad_out, tile_lse2, delta, dk, dv,
            alibi_slopes, dropout_seed, cu_seqlens_q, cu_seqlens_k, *strides,
            num_blocks, *sizes, threshold, scale * LOG2_E.value, scale * keep, keep,
            **settings, **_constants(key_tile),
        )  # fmt: skip
    return dq, dk, dv


def _readable(x: Tensor) -> Tensor:
    """Itself or a contiguous copy, if the kernels cannot read it.

    They read the features of a token as one run, which those of a gradient often are not (an
    expanded one has strides of 0), and count from head to head in 32 bits.
    """
    far = abs(x.stride(-2)) * x.shape[-2] >= 2**31
    return x.contiguous() if x.stride(-1) != 1 or far else x


def _strides(x: Tensor) -> tuple[int, ...]:
    """Of batch (0 where packed), token and head."""
    return (*((0,) if x.ndim == 3 else ()), *x.stride()[:-1])


def _constants(tile: Tile) -> dict[str, int]:
    return {
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
