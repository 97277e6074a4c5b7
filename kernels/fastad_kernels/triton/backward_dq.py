"""The dQ kernel: a program owns a block of queries and walks the keys of its band.

See `backward` for the mathematics.
"""

import triton
import triton.language as tl

from fastad_kernels.triton.backward_shared import (
    LOG2_E,
    VARYING,
    _load_rows,
    _sequence,
    _tile_bounds,
    _visible,
)
from fastad_kernels.triton.dropout import keep_mask


@triton.jit
def _dq_tile(
    b_dq, b_q, b_do, b_lse, b_delta, rows, start, low, high,
    p_k, stride_kt, p_v, stride_vt, shift, window, score_scale, slope, origin,
    seed, batch_head, threshold,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    ALIBI: tl.constexpr, DROPOUT: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Add to dQ / scale, (BLOCK_M, D), what the keys from `start` on contribute."""
    keys = start + tl.arange(0, BLOCK_N)
    SPLIT_BIAS: tl.constexpr = b_q.dtype.primitive_bitwidth == 16
    b_k = _load_rows(p_k, stride_kt, start, low, high, BLOCK_N, HEAD_DIM, MASKED)
    b_v = _load_rows(p_v, stride_vt, start, low, high, BLOCK_N, HEAD_DIM, MASKED)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION, out_dtype=ACC)
    if not ALIBI:
        b_s = tl.fma(b_s, score_scale, -b_lse[:, None])
    elif SPLIT_BIAS:
        b_s = b_s * score_scale + (slope * (keys - origin).to(ACC))[None, :] - b_lse[:, None]
    else:
        b_distance = (keys[None, :] - (rows + shift)[:, None]).to(ACC)
        b_s = tl.fma(b_s, score_scale, tl.fma(b_distance, slope, -b_lse[:, None]))
    b_p = tl.exp2(b_s)
    b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION, out_dtype=ACC)
    if DROPOUT:
        keep = keep_mask(seed, batch_head, rows, start, threshold, BLOCK_N)
        b_dp = tl.where(keep, b_dp, 0.0)
    b_ds = b_p * (b_dp - b_delta[:, None])
    if MASKED:
        if CAUSAL or WINDOW:
            visible = _visible((rows + shift)[:, None] - keys[None, :], window, CAUSAL, WINDOW)
            b_ds = tl.where(visible, b_ds, 0.0)
        if not CAUSAL:
            b_ds = tl.where((keys < high)[None, :], b_ds, 0.0)
    return tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION, out_dtype=ACC)


@triton.jit(do_not_specialize=VARYING)
def _attention_backward_dq_kernel(
    p_q, p_k, p_v, p_out, p_do, p_lse, p_tile_lse, p_delta, p_dq, p_slopes, p_seed, p_cu_q, p_cu_k,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_kt, stride_kh,
    stride_vb, stride_vt, stride_vh, stride_dob, stride_dot, stride_doh, stride_lb, stride_lh,
    num_blocks, num_queries, num_keys, window, threshold,
    score_scale: tl.float64, grad_scale: tl.float64, inverse_keep_scale: tl.float64,
    NUM_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    ALIBI: tl.constexpr, DROPOUT: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr, ROW_TILE: tl.constexpr,
):  # fmt: skip
    """Write dQ and delta / keep_scale of one block of queries of one head.

    With ALiBi and 16-bit arguments also `tile_lse`, the log-sum-exp that the dK/dV kernel reads in
    tiles of ROW_TILE queries, with slope * (query - first query of the tile) added. `out` and `dq`
    are contiguous; `lse` (base 2), `tile_lse` and `delta` are (B, H, T), or packed (H, total).
    Grid: blocks of queries * B * H, the blocks of a head next to each other.
    """
    score_scale, grad_scale = tl.full([], score_scale, ACC), tl.full([], grad_scale, ACC)
    inverse_keep_scale = tl.full([], inverse_keep_scale, ACC)
    batch_head = tl.program_id(0) // num_blocks
    # With a causal mask the last blocks have the most keys; they start first.
    block = num_blocks - 1 - tl.program_id(0) % num_blocks
    batch = (batch_head // NUM_HEADS).to(tl.int64)
    head = (batch_head % NUM_HEADS).to(tl.int64)
    first_q, num_queries = _sequence(p_cu_q, batch, num_queries, PACKED)
    first_k, num_keys = _sequence(p_cu_k, batch, num_keys, PACKED)
    start_row = block * BLOCK_M
    if start_row >= num_queries:
        return

    kv_head = head // GROUP
    p_q += batch * stride_qb + first_q * stride_qt + head * stride_qh
    p_k += batch * stride_kb + first_k * stride_kt + kv_head * stride_kh
    p_v += batch * stride_vb + first_k * stride_vt + kv_head * stride_vh
    p_do += batch * stride_dob + first_q * stride_dot + head * stride_doh
    stride_out: tl.constexpr = NUM_HEADS * HEAD_DIM
    first_out = batch * num_queries
    if PACKED:
        first_out = first_q
    first_lse = batch * stride_lb + first_q + head * stride_lh
    p_out += first_out * stride_out + head * HEAD_DIM
    p_dq += first_out * stride_out + head * HEAD_DIM

    end_row = tl.minimum(start_row + BLOCK_M, num_queries)
    shift = num_keys - num_queries
    low, high, full_low, full_high = 0, num_keys, 0, num_keys
    if CAUSAL:
        high = tl.minimum(high, tl.maximum(end_row + shift, 0))
        full_high = tl.minimum(full_high, tl.maximum(start_row + shift + 1, 0))
    if WINDOW:
        low = tl.maximum(start_row + shift - window + 1, 0)
        full_low = tl.maximum(end_row + shift - window, 0)

    rows = start_row + tl.arange(0, BLOCK_M)
    # A row that sees nothing may hold anything; it is masked in every tile.
    b_q = _load_rows(p_q, stride_qt, start_row, 0, end_row, BLOCK_M, HEAD_DIM, True)
    b_do = _load_rows(p_do, stride_dot, start_row, 0, end_row, BLOCK_M, HEAD_DIM, True)
    b_out = _load_rows(p_out, stride_out, start_row, 0, end_row, BLOCK_M, HEAD_DIM, True)
    b_delta = tl.sum(b_out.to(ACC) * b_do.to(ACC), 1) * inverse_keep_scale
    tl.store(p_delta + first_lse + rows, b_delta, mask=rows < end_row)
    b_lse = tl.load(p_lse + first_lse + rows, mask=rows < end_row, other=0.0)
    slope, origin, seed = 0.0, start_row + shift, 0
    if ALIBI:
        slope = tl.load(p_slopes + head).to(ACC) * LOG2_E
        if b_q.dtype.primitive_bitwidth == 16:
            b_tile_lse = b_lse + slope * (rows % ROW_TILE).to(ACC)
            tl.store(p_tile_lse + first_lse + rows, b_tile_lse, mask=rows < end_row)
            b_lse += slope * tl.arange(0, BLOCK_M).to(ACC)
    if DROPOUT:
        seed = tl.load(p_seed)

    b_dq = tl.zeros([BLOCK_M, HEAD_DIM], ACC)
    first, full_first, num_masked, num_full = _tile_bounds(low, high, full_low, full_high, BLOCK_N)
    for i in range(num_masked):
        tile = tl.where(first + i < full_first, first + i, first + i + num_full)
        b_dq = _dq_tile(
            b_dq, b_q, b_do, b_lse, b_delta, rows, tile * BLOCK_N, low, high,
            p_k, stride_kt, p_v, stride_vt, shift, window, score_scale, slope, origin,
            seed, batch_head, threshold,
            HEAD_DIM, BLOCK_N, CAUSAL, WINDOW, ALIBI, DROPOUT, True, PRECISION, ACC,
        )  # fmt: skip
    for i in range(num_full):
        b_dq = _dq_tile(
            b_dq, b_q, b_do, b_lse, b_delta, rows, (full_first + i) * BLOCK_N, low, high,
            p_k, stride_kt, p_v, stride_vt, shift, window, score_scale, slope, origin,
            seed, batch_head, threshold,
            HEAD_DIM, BLOCK_N, CAUSAL, WINDOW, ALIBI, DROPOUT, False, PRECISION, ACC,
        )  # fmt: skip
    p_tile = p_dq + rows.to(tl.int64)[:, None] * stride_out + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(p_tile, (b_dq * grad_scale).to(p_dq.dtype.element_ty), mask=(rows < end_row)[:, None])
