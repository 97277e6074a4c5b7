"""The dK/dV kernel: a program owns a block of keys of one key/value head and walks the queries.

All query heads that share those keys are walked by the one program, so nothing is added up between
programs. See `backward` for the mathematics.
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
def _dkdv_tile(
    b_dk, b_dv, b_k, b_v, start, low, high,
    p_q, stride_qt, p_do, stride_dot, p_lse, p_delta,
    start_key, shift, window, score_scale, slope, seed, batch_head, threshold,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, DROPOUT: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add to dK / scale and dV, (BLOCK_N, D), what the queries from `start` on contribute.

    Scores stand transposed, (BLOCK_N, BLOCK_M), so that they are left factors as they come.
    """
    rows, keys = start + tl.arange(0, BLOCK_M), start_key + tl.arange(0, BLOCK_N)
    SPLIT_BIAS: tl.constexpr = b_k.dtype.primitive_bitwidth == 16
    b_q = _load_rows(p_q, stride_qt, start, low, high, BLOCK_M, HEAD_DIM, MASKED)
    b_do = _load_rows(p_do, stride_dot, start, low, high, BLOCK_M, HEAD_DIM, MASKED)
    if MASKED:
        # Against an infinite log-sum-exp every weight is 0.
        b_lse = tl.load(p_lse + rows, mask=(rows >= low) & (rows < high), other=float("inf"))
        b_delta = tl.load(p_delta + rows, mask=(rows >= low) & (rows < high), other=0.0)
    else:
        b_lse = tl.load(p_lse + rows)
        b_delta = tl.load(p_delta + rows)
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION, out_dtype=ACC)
    if not ALIBI:
        b_s = tl.fma(b_s, score_scale, -b_lse[None, :])
    elif SPLIT_BIAS:
        # The part of the row within its tile is in `lse` already.
        b_s = b_s * score_scale + (slope * (keys - shift - start).to(ACC))[:, None] - b_lse[None, :]
    else:
        b_distance = (keys[:, None] - (rows + shift)[None, :]).to(ACC)
        b_s = tl.fma(b_s, score_scale, tl.fma(b_distance, slope, -b_lse[None, :]))
    b_p = tl.exp2(b_s)
    if MASKED and (CAUSAL or WINDOW):
        visible = _visible(rows[None, :] - (keys - shift)[:, None], window, CAUSAL, WINDOW)
        b_p = tl.where(visible, b_p, 0.0)
    b_dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION, out_dtype=ACC)
    b_kept = b_p
    if DROPOUT:
        keep = tl.trans(keep_mask(seed, batch_head, rows, start_key, threshold, BLOCK_N))
        b_dp = tl.where(keep, b_dp, 0.0)
        b_kept = tl.where(keep, b_p, 0.0)
    b_dv = tl.dot(b_kept.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION, out_dtype=ACC)
    b_ds = b_p * (b_dp - b_delta[None, :])
    b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION, out_dtype=ACC)
    return b_dk, b_dv


@triton.jit
def _dkdv_tiles(
    b_dk, b_dv, b_k, b_v, first, gap_at, gap, num_tiles, low, high,
    p_q, stride_qt, stride_qh, p_do, stride_dot, stride_doh, p_lse, p_delta, stride_lh, p_slopes,
    start_key, shift, window, score_scale, seed, batch_head, threshold,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, ALIBI: tl.constexpr, DROPOUT: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Go through tiles `first`, ..., without the `gap` from `gap_at` on, of every head of a group.

    One loop, since a loop over heads around it would keep registers from the tiles.
    """
    slope, member, number = 0.0, 0, 0
    for _ in range(GROUP * num_tiles):
        tile = first + number
        if MASKED:
            tile = tl.where(tile < gap_at, tile, tile + gap)
        if ALIBI:
            slope = tl.load(p_slopes + member).to(ACC) * LOG2_E
        first_lse = tl.cast(member, tl.int64) * stride_lh
        p_q_head = p_q + member * stride_qh
        p_do_head = p_do + member * stride_doh
        b_dk, b_dv = _dkdv_tile(
            b_dk, b_dv, b_k, b_v, tile * BLOCK_M, low, high,
            p_q_head, stride_qt, p_do_head, stride_dot,
            p_lse + first_lse, p_delta + first_lse, start_key, shift, window, score_scale,
            slope, seed, batch_head + member, threshold,
            HEAD_DIM, BLOCK_M, BLOCK_N, CAUSAL, WINDOW, ALIBI, DROPOUT, MASKED, PRECISION, ACC,
        )  # fmt: skip
        number += 1
        if GROUP > 1:
            done = number == num_tiles
            member = tl.where(done, member + 1, member)
            number = tl.where(done, 0, number)
    return b_dk, b_dv


@triton.jit(do_not_specialize=VARYING)
def _attention_backward_dkdv_kernel(
    p_q, p_k, p_v, p_do, p_lse, p_delta, p_dk, p_dv, p_slopes, p_seed, p_cu_q, p_cu_k,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_kt, stride_kh,
    stride_vb, stride_vt, stride_vh, stride_dob, stride_dot, stride_doh, stride_lb, stride_lh,
    num_blocks, num_queries, num_keys, window, threshold,
    score_scale: tl.float64, grad_scale: tl.float64, keep_scale: tl.float64,
    NUM_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    ALIBI: tl.constexpr, DROPOUT: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Write dK and dV of one block of keys of one key/value head.

    `dk` and `dv` are contiguous; `delta` is what the dQ kernel wrote.
    Grid: blocks of keys * B * Hkv, the blocks of a head next to each other.
    """
    score_scale, grad_scale = tl.full([], score_scale, ACC), tl.full([], grad_scale, ACC)
    keep_scale = tl.full([], keep_scale, ACC)
    start_key = tl.program_id(0) % num_blocks * BLOCK_N
    num_kv_heads: tl.constexpr = NUM_HEADS // GROUP
    batch_kv_head = tl.program_id(0) // num_blocks
    batch = (batch_kv_head // num_kv_heads).to(tl.int64)
    kv_head = (batch_kv_head % num_kv_heads).to(tl.int64)
    head, batch_head = kv_head * GROUP, batch_kv_head * GROUP  # the first of the group
    stride_out: tl.constexpr = num_kv_heads * HEAD_DIM
    first_out = batch * num_keys
    first_q, num_queries = _sequence(p_cu_q, batch, num_queries, PACKED)
    first_k, num_keys = _sequence(p_cu_k, batch, num_keys, PACKED)
    if start_key >= num_keys:
        return
    if PACKED:
        first_out = first_k

    p_q += batch * stride_qb + first_q * stride_qt + head * stride_qh
    p_do += batch * stride_dob + first_q * stride_dot + head * stride_doh
    p_lse += batch * stride_lb + first_q + head * stride_lh
    p_delta += batch * stride_lb + first_q + head * stride_lh
    if ALIBI:
        p_slopes += head
    p_k += batch * stride_kb + first_k * stride_kt + kv_head * stride_kh
    p_v += batch * stride_vb + first_k * stride_vt + kv_head * stride_vh
    end_key = tl.minimum(start_key + BLOCK_N, num_keys)
    shift = num_keys - num_queries
    low, high, full_low, full_high = 0, num_queries, 0, num_queries
    first_seen = 0
    if CAUSAL:
        low = tl.maximum(start_key - shift, 0)
        full_low = tl.maximum(end_key - 1 - shift, 0)
    if WINDOW:
        high = tl.minimum(high, tl.maximum(end_key - 1 + window - shift, 0))
        full_high = tl.minimum(full_high, tl.maximum(start_key + window - shift, 0))
        first_seen = shift - window + 1  # by the first query; no query sees the keys before
    first, full_first, num_masked, num_full = _tile_bounds(low, high, full_low, full_high, BLOCK_M)

    b_k = _load_rows(p_k, stride_kt, start_key, first_seen, end_key, BLOCK_N, HEAD_DIM, True)
    b_v = _load_rows(p_v, stride_vt, start_key, first_seen, end_key, BLOCK_N, HEAD_DIM, True)
    b_dk = tl.zeros([BLOCK_N, HEAD_DIM], ACC)
    b_dv = tl.zeros([BLOCK_N, HEAD_DIM], ACC)
    seed = 0
    if DROPOUT:
        seed = tl.load(p_seed)
    b_dk, b_dv = _dkdv_tiles(
        b_dk, b_dv, b_k, b_v, first, full_first, num_full, num_masked, low, high,
        p_q, stride_qt, stride_qh, p_do, stride_dot, stride_doh, p_lse, p_delta, stride_lh,
        p_slopes, start_key, shift, window, score_scale, seed, batch_head, threshold,
        GROUP, HEAD_DIM, BLOCK_M, BLOCK_N, CAUSAL, WINDOW, ALIBI, DROPOUT, True, PRECISION, ACC,
    )  # fmt: skip
    b_dk, b_dv = _dkdv_tiles(
        b_dk, b_dv, b_k, b_v, full_first, 0, 0, num_full, low, high,
        p_q, stride_qt, stride_qh, p_do, stride_dot, stride_doh, p_lse, p_delta, stride_lh,
        p_slopes, start_key, shift, window, score_scale, seed, batch_head, threshold,
        GROUP, HEAD_DIM, BLOCK_M, BLOCK_N, CAUSAL, WINDOW, ALIBI, DROPOUT, False, PRECISION, ACC,
    )  # fmt: skip
    keys = start_key + tl.arange(0, BLOCK_N)
    offsets = (first_out + keys)[:, None] * stride_out + tl.arange(0, HEAD_DIM)[None, :]
    p_dk += kv_head * HEAD_DIM
    p_dv += kv_head * HEAD_DIM
    inside = (keys < end_key)[:, None]
    tl.store(p_dk + offsets, (b_dk * grad_scale).to(p_dk.dtype.element_ty), mask=inside)
    tl.store(p_dv + offsets, (b_dv * keep_scale).to(p_dv.dtype.element_ty), mask=inside)
