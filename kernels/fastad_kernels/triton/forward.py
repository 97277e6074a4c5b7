"""Forward attention, one kernel for dense and packed batches.

A program takes one block of queries of one head and walks the keys of its band in two loops: over
the interior, where every score counts and nothing is masked, then over what is left, the edge of
the window and the diagonal with the ragged end. Softmax runs in base 2 with the scale folded in. Of
ALiBi's -slope * (query - key) the part that is the same for a whole row cancels in the softmax, so
the scores of 16-bit tokens get slope * (key - origin) alone.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastad_kernels.checks import check_rows
from fastad_kernels.philox import drop_threshold, keep_scale
from fastad_kernels.triton.dropout import keep_mask
from fastad_kernels.triton.tiles import current_architecture, dot_precision, find_tile

LOG2_E = math.log2(math.e)
_LOG2_E = tl.constexpr(LOG2_E)
# Below every true score, but finite: a row that has seen nothing yet needs no special case.
_LOWEST = tl.constexpr(-1e30)


@triton.jit
def _find_band(
    first_position, last_position, num_keys, window,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Which keys the queries of a block see, from those of its first and last query.

    Returns:
        low: Of the keys [low, high) that some query sees.
        high: Their end.
        first: Start of the tile that holds `low`.
        inner: Of the whole tiles [inner, outer) that every query sees.
        outer: Their end.
    """
    low, high, inner, outer = 0, num_keys, 0, num_keys
    if CAUSAL:
        high = tl.maximum(tl.minimum(num_keys, last_position + 1), 0)
        outer = tl.maximum(tl.minimum(num_keys, first_position + 1), 0)
    if WINDOW:
        low = tl.minimum(tl.maximum(first_position - window + 1, 0), high)
        inner = tl.maximum(last_position - window + 1, 0)
        inner = tl.minimum(tl.cdiv(inner, BLOCK_N), tl.cdiv(high, BLOCK_N)) * BLOCK_N
    outer = tl.maximum(outer // BLOCK_N * BLOCK_N, inner)
    return low, high, low // BLOCK_N * BLOCK_N, inner, outer


@triton.jit
def _attend_tiles(
    acc, row_max, row_sum, b_q, p_k, p_v, stride_kt, stride_vt, first, last, gap_at, gap, low, high,
    positions, window, scale_log2, slope, origin, seed, batch_head, rows, threshold,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, ALIBI: tl.constexpr,
    DROPOUT: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Take in the tiles of keys that start at `first`, `first` + BLOCK_N, ... before `last`.

    Where MASKED, `gap` keys from `gap_at` on are left out, and keys outside [low, high), which no
    query of the block sees, are not even loaded.
    """
    # What cancels has been rounded before: with fp32 tokens that would show, with 16 bits not.
    WHOLE_BIAS: tl.constexpr = b_q.dtype.primitive_bitwidth > 16
    columns = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, D)
    # [BLOCK_N, D]
    k_offsets = columns[:, None] * stride_kt + dims[None, :]
    v_offsets = columns[:, None] * stride_vt + dims[None, :]
    for tile in tl.range(first, last, BLOCK_N):
        start = tile
        if MASKED:
            start += gap * (tile >= gap_at)
        p_k_tile = p_k + tl.cast(start, tl.int64) * stride_kt
        p_v_tile = p_v + tl.cast(start, tl.int64) * stride_vt
        keys = start + columns
        if MASKED:
            loaded = ((keys >= low) & (keys < high))[:, None]
            b_k = tl.load(p_k_tile + k_offsets, mask=loaded, other=0.0)
            # 0 * NaN is NaN, so hidden values must not be loaded, either.
            b_v = tl.load(p_v_tile + v_offsets, mask=loaded, other=0.0)
        else:
            b_k = tl.load(p_k_tile + k_offsets)
            b_v = tl.load(p_v_tile + v_offsets)
        # [BLOCK_M, BLOCK_N]
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION, out_dtype=ACC)
        if MASKED:
            visible = (keys < high)[None, :]
            if CAUSAL:
                # A query's own position is below `high`; those past the end are not stored.
                visible = keys[None, :] <= positions[:, None]
            if WINDOW:
                visible = visible & (keys[None, :] > positions[:, None] - window)
            b_s = tl.where(visible, b_s, float("-inf"))
        if ALIBI:
            if WHOLE_BIAS:
                b_bias = slope * (keys[None, :] - positions[:, None]).to(ACC)
            else:
                b_bias = (slope * (keys - origin).to(ACC))[None, :]
            b_s = b_s * scale_log2 + b_bias
            new_max = tl.maximum(row_max, tl.max(b_s, 1))
            b_p = tl.exp2(b_s - new_max[:, None])
        else:
            # The scale is positive: the largest raw score is the largest score, and scaling
            # joins the subtraction in one fused multiply-add.
            new_max = tl.maximum(row_max, tl.max(b_s, 1) * scale_log2)
            b_p = tl.exp2(b_s * scale_log2 - new_max[:, None])
        decay = tl.exp2(row_max - new_max)
        row_sum = row_sum * decay + tl.sum(b_p, 1)
        row_max = new_max
        if DROPOUT:
            keep = keep_mask(seed, batch_head, rows, start, threshold, BLOCK_N)
            b_p = tl.where(keep, b_p, 0.0)
        acc = tl.dot(
            b_p.to(b_v.dtype), b_v, acc * decay[:, None], input_precision=PRECISION, out_dtype=ACC
        )
    return acc, row_max, row_sum


# Whatever varies from batch to batch must not compile a kernel anew.
_VARYING = [
    "stride_lb",
    "stride_lh",
    "num_queries",
    "num_keys",
    "num_blocks",
    "window",
    "threshold",
]


@triton.jit(do_not_specialize=_VARYING)
def _attention_forward_kernel(
    p_q, p_k, p_v, p_out, p_lse, p_cu_q, p_cu_k, p_slopes, p_seed,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_kt, stride_kh,
    stride_vb, stride_vt, stride_vh, stride_ob, stride_ot, stride_oh, stride_lb, stride_lh,
    num_heads, num_groups, num_blocks, num_queries, num_keys, window, threshold,
    scale_log2: tl.float64, weight_scale: tl.float64,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, ALIBI: tl.constexpr, DROPOUT: tl.constexpr,
    PACKED: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program per block of queries and head; see `launch` for what the arguments hold."""
    scale_log2, weight_scale = tl.full([], scale_log2, ACC), tl.full([], weight_scale, ACC)
    program = tl.program_id(0)
    batch_head = program // num_blocks
    block = program % num_blocks
    if CAUSAL:
        # The last blocks have the most keys; started first, they do not trail behind the rest.
        block = num_blocks - 1 - block
    batch = (batch_head // num_heads).to(tl.int64)
    head = batch_head % num_heads
    q_start, k_start = batch * 0, batch * 0
    if PACKED:
        q_start = tl.load(p_cu_q + batch).to(tl.int64)
        k_start = tl.load(p_cu_k + batch).to(tl.int64)
        num_queries = (tl.load(p_cu_q + batch + 1) - q_start).to(tl.int32)
        num_keys = (tl.load(p_cu_k + batch + 1) - k_start).to(tl.int32)
    first_row = block * BLOCK_M
    if first_row >= num_queries:
        return
    # Heads may lie far apart, too: (B, H, T, D) seen as (B, T, H, D).
    kv_head = (head // num_groups).to(tl.int64)
    head = head.to(tl.int64)
    p_q += batch * stride_qb + (q_start + first_row) * stride_qt + head * stride_qh
    p_out += batch * stride_ob + (q_start + first_row) * stride_ot + head * stride_oh
    p_lse += batch * stride_lb + head * stride_lh + q_start
    p_k += batch * stride_kb + k_start * stride_kt + kv_head * stride_kh
    p_v += batch * stride_vb + k_start * stride_vt + kv_head * stride_vh

    lanes = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    rows = first_row + lanes
    in_rows = rows < num_queries
    q_offsets = lanes[:, None] * stride_qt + dims[None, :]
    b_q = tl.load(p_q + q_offsets, mask=in_rows[:, None], other=0.0)  # [BLOCK_M, D]

    # Query t stands at position t + S - T, so the last query is beside the last key.
    shift = num_keys - num_queries
    positions = rows + shift
    first_position = first_row + shift
    last_position = tl.minimum(first_row + BLOCK_M, num_queries) - 1 + shift
    low, high, first, inner, outer = _find_band(
        first_position, last_position, num_keys, window, CAUSAL, WINDOW, BLOCK_N
    )
    # In the middle of the block, where the terms that cancel are smallest.
    origin = first_position + BLOCK_M // 2
    slope = 0.0
    if ALIBI:
        slope = tl.load(p_slopes + head).to(ACC) * _LOG2_E
    seed = 0
    if DROPOUT:
        seed = tl.load(p_seed)
    acc = tl.zeros([BLOCK_M, D], ACC)
    row_max = tl.full([BLOCK_M], _LOWEST, ACC)
    row_sum = tl.zeros([BLOCK_M], ACC)
    acc, row_max, row_sum = _attend_tiles(
        acc, row_max, row_sum, b_q, p_k, p_v, stride_kt, stride_vt, inner, outer, 0, 0, low, high,
        positions, window, scale_log2, slope, origin, seed, batch_head, rows, threshold,
        False, CAUSAL, WINDOW, ALIBI, DROPOUT, D, BLOCK_N, PRECISION, ACC,
    )  # fmt: skip
    acc, row_max, row_sum = _attend_tiles(
        acc, row_max, row_sum, b_q, p_k, p_v, stride_kt, stride_vt,
        first, high - (outer - inner), inner, outer - inner, low, high,
        positions, window, scale_log2, slope, origin, seed, batch_head, rows, threshold,
        True, CAUSAL, WINDOW, ALIBI, DROPOUT, D, BLOCK_N, PRECISION, ACC,
    )  # fmt: skip

    blind = row_sum == 0.0
    row_sum = tl.where(blind, 1.0, row_sum)
    lse = row_max + tl.log2(row_sum)
    if ALIBI and b_q.dtype.primitive_bitwidth == 16:
        lse -= slope * (positions - origin).to(ACC)
    tl.store(p_lse + rows, tl.where(blind, float("-inf"), lse), mask=in_rows)
    factor = 1.0 / row_sum
    if DROPOUT:
        factor *= weight_scale
    o_offsets = lanes[:, None] * stride_ot + dims[None, :]
    b_out = (acc * factor[:, None]).to(p_out.dtype.element_ty)
    tl.store(p_out + o_offsets, b_out, mask=in_rows[:, None])


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
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
) -> tuple[Tensor, Tensor]:
    """Run the forward kernel; all else is checked before.

    Args:
        q: (B, T, H, D), or packed (total_q, H, D); any strides, but D is contiguous.
        k: (B, S, Hkv, D), or packed (total_k, Hkv, D).
        v: As k.
        cu_seqlens_q: int32 (num_seqs + 1,) where packed; None where dense.
        cu_seqlens_k: As cu_seqlens_q.
        max_seqlen_q: The longest query sequence; T where dense.
        max_seqlen_k: The longest key sequence; S where dense.
        window: Tokens that a query may see, itself included; None for all.
        causal: Whether later keys are hidden.
        scale: Of the scores, positive.
        alibi_slopes: (H,) or None.
        dropout: Probability, rounded to 1/256.
        dropout_seed: One int64 on the device of q; unused where dropout is 0.

    Returns:
        The attention, of the shape and dtype of q and contiguous, and `lse2`, contiguous, float32
        (float64 for float64 arguments), (B, H, T) or packed (H, total_q). For query i at position
        i + S - T of its sequence,

            lse2[i] = log2(sum over visible j of
                           2 ** (log2(e) * (scale * q_i . k_j - slope * (position_i - j))))

        with the whole ALiBi term and without dropout, so that a weight before dropout is
        2 ** (log2(e) * score - lse2[i]). It is -inf for a query that sees no key, whose weights
        a backward pass must take as 0.

    Raises:
        ValueError: If D is not contiguous.
    """
    check_rows(q=q, k=k, v=v)
    packed = cu_seqlens_q is not None
    num_tokens, num_heads, head_dim = q.shape[-3:]
    batch = q.shape[0] if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1
    is_float64 = q.dtype == torch.float64
    # Only a packed batch can have tokens that no program owns.
    allocate = torch.zeros if q.ndim == 3 else torch.empty
    out = allocate(q.shape, dtype=q.dtype, device=q.device)
    lse2 = torch.empty(
        (num_heads, num_tokens) if packed else (batch, num_heads, num_tokens),
        dtype=torch.float64 if is_float64 else torch.float32, device=q.device,
    )  # fmt: skip
    if out.numel() == 0:
        return out, lse2
    windowed = window is not None and window < max_seqlen_k
    threshold = drop_threshold(dropout)
    # Triton launches on the current device, whatever the tensors are on.
    with torch.cuda.device_of(q):
        tile = find_tile(current_architecture(), head_dim, "forward", q.element_size())
        num_blocks = triton.cdiv(max_seqlen_q, tile.block_m)
        _attention_forward_kernel[(num_blocks * batch * num_heads,)](
            q, k, v, out, lse2, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed,
            *_strides(q), *_strides(k), *_strides(v), *_strides(out),
            0 if packed else lse2.stride(0), lse2.stride(-2),
            num_heads, num_heads // k.shape[-2], num_blocks, max_seqlen_q, max_seqlen_k,
            window if windowed else 0, threshold, scale * LOG2_E, keep_scale(dropout),
            CAUSAL=causal, WINDOW=windowed, ALIBI=alibi_slopes is not None,
            DROPOUT=threshold > 0, PACKED=packed, D=head_dim,
            BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, PRECISION=dot_precision(q.dtype),
            ACC=tl.float64 if is_float64 else tl.float32,
            num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out, lse2


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of all but the last dimension; a packed tensor has the batch stride 0."""
    along_batch = 0 if x.ndim == 3 else x.stride(0)
    return along_batch, x.stride(-3), x.stride(-2)
