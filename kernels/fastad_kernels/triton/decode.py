"""The decode kernel: append to the ring, rotate, and attend, in one launch.

One program serves one environment, one tile of key/value heads and one split of the band. All
query heads and new tokens of the tile stand as rows of one block-diagonal matrix,

    rows     (key/value head, query head of its group, new token)
    columns  (key/value head, feature)

so that a row is zero outside its own head's columns, and one dense product with whole ring rows
(N, heads * D) gives every head's scores. The products with zeros cost nothing that a kernel bound
by memory would miss, and at head dim 16 there is no other way to keep few instructions per byte.

Only positions inside the band are read: the tokens p with old - window < p < old, where `old` is
the environment's length before this step, lie in slots p mod C, in one run that wraps at most once.
Splits divide this run. Split 0 also attends to the new tokens, from registers and as stored, and
alone writes them to the ring; no slot about to be overwritten is in the band, as C is at least
window + T - 1, so no program reads what another writes.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LARGEST_CODE = tl.constexpr(127.0)
# In float16 the product of a weight and an int8 scale would lose bits to underflow. Times 64 it
# stays below the largest float16, since no float16 value has a scale above 65504 / 127.
SCALE_SHIFT = tl.constexpr(64.0)


@triton.jit
def _load_rotated(
    p_x, p_cos, p_sin, feature, token, mask,
    stride_rope_token, stride_rope_feature,
    D: tl.constexpr, ROPE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Load x[feature] at `p_x` of each head and rotate the pairs (x[i], x[i + D/2])."""
    b_x = tl.load(p_x + feature, mask=mask, other=0.0).to(ACC)
    if ROPE:
        b_partner = tl.load(p_x + (feature + D // 2) % D, mask=mask, other=0.0).to(ACC)
        angle = token * stride_rope_token + feature % (D // 2) * stride_rope_feature
        b_cos = tl.load(p_cos + angle, mask=mask, other=0.0).to(ACC)
        b_sin = tl.load(p_sin + angle, mask=mask, other=0.0).to(ACC)
        b_x = b_x * b_cos + tl.where(feature < D // 2, -b_partner, b_partner) * b_sin
    return b_x


@triton.jit
def _quantize(b_x, BLOCK_T: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr):
    """Codes (BLOCK_T, HEADS * D), whole numbers in fp32, and scales (BLOCK_T, HEADS)."""
    b_heads = tl.reshape(b_x.to(tl.float32), (BLOCK_T, HEADS, D))
    # Division rounded to nearest, as PyTorch's: codes must not depend on who computed them.
    b_scale = tl.div_rn(tl.max(tl.abs(b_heads), 2), LARGEST_CODE)
    b_divisor = tl.where(b_scale == 0.0, 1.0, b_scale)[:, :, None]
    b_code = tl.floor(tl.div_rn(b_heads, tl.broadcast_to(b_divisor, (BLOCK_T, HEADS, D))) + 0.5)
    b_code = tl.minimum(tl.maximum(b_code, -LARGEST_CODE), LARGEST_CODE)
    return b_code, b_scale


@triton.jit
def _append(
    b_x, p_ring, p_scales, slot, column, live,
    NUM_KV_HEADS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    BLOCK_T: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    """Store new rows (BLOCK_T, HEADS * D) in their slots; give them back as stored.

    `p_ring` and `p_scales` point to the tile's first head in slot 0.
    """
    width: tl.constexpr = HEADS * D
    p_rows = p_ring + slot[:, None] * (NUM_KV_HEADS * D) + column[None, :]
    if INT8:
        b_code, b_scale = _quantize(b_x, BLOCK_T, HEADS, D)
        tl.store(p_rows, tl.reshape(b_code, (BLOCK_T, width)).to(tl.int8), mask=live[:, None])
        p_row_scales = p_scales + slot[:, None] * NUM_KV_HEADS + tl.arange(0, HEADS)[None, :]
        tl.store(p_row_scales, b_scale, mask=live[:, None])
        return tl.reshape(b_code * b_scale[:, :, None], (BLOCK_T, width))
    else:
        b_stored = b_x.to(p_ring.dtype.element_ty)
        tl.store(p_rows, b_stored, mask=live[:, None])
        return b_stored


@triton.jit
def _softmax_step(b_s, visible, b_max, b_sum):
    """One step of the online softmax in base 2; rows may see nothing yet."""
    b_s = tl.where(visible, b_s, float("-inf"))
    b_max_new = tl.maximum(b_max, tl.max(b_s, 1))
    b_shift = tl.where(b_max_new == float("-inf"), 0.0, b_max_new)
    b_p = tl.exp2(b_s - b_shift[:, None])
    b_decay = tl.exp2(b_max - b_shift)
    return b_p, b_decay, b_max_new, b_sum * b_decay + tl.sum(b_p, 1)


@triton.jit
def _attend_ring(
    b_q, b_slope, p_keys, p_values, p_key_scales, p_value_scales,
    begin, end, num_old, first_slot, b_first_seen, capacity,
    row_head, column,
    SCALE: tl.constexpr, NUM_KV_HEADS: tl.constexpr, D: tl.constexpr, NUM_NEW: tl.constexpr,
    BLOCK_N: tl.constexpr, ALIBI: tl.constexpr, INT8: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Attend to the offsets [begin, end) of the band; offset i lies in slot first_slot + i mod C.

    Returns the running maximum (ROWS,) and sum (ROWS,) of the softmax, and the weighted values
    (ROWS, HEADS * D), not yet divided by the sum.
    """
    dot_dtype: tl.constexpr = b_q.dtype
    b_max = tl.full([b_q.shape[0]], float("-inf"), ACC)
    b_sum = tl.zeros([b_q.shape[0]], ACC)
    b_acc = tl.zeros(b_q.shape, ACC)
    for start in tl.range(begin, end, BLOCK_N):
        offset = start + tl.arange(0, BLOCK_N)
        # Past the end the last row is read again, which costs less than masking every load.
        slot = first_slot + tl.minimum(offset, end - 1)
        slot = tl.where(slot >= capacity, slot - capacity, slot)
        p_slot = slot * (NUM_KV_HEADS * D)
        b_k = tl.load(p_keys + p_slot[None, :] + column[:, None]).to(dot_dtype)
        b_s = tl.dot(b_q, b_k, input_precision=PRECISION, out_dtype=ACC) * (SCALE * LOG2_E)
        if INT8:
            p_scale = slot[None, :] * NUM_KV_HEADS + row_head[:, None]
            b_s *= tl.load(p_key_scales + p_scale)
        if ALIBI:
            # Distances to the first new token, not to the query: a row's constant cancels.
            b_s += b_slope[:, None] * (offset - num_old).to(ACC)[None, :]
        visible = (offset < end)[None, :]
        if NUM_NEW > 1:
            visible = visible & (offset[None, :] >= b_first_seen[:, None])
        b_p, b_decay, b_max, b_sum = _softmax_step(b_s, visible, b_max, b_sum)
        b_v = tl.load(p_values + p_slot[:, None] + column[None, :]).to(dot_dtype)
        if INT8:
            b_p *= tl.load(p_value_scales + p_scale) * SCALE_SHIFT
        b_acc = tl.dot(
            b_p.to(dot_dtype), b_v, b_acc * b_decay[:, None],
            input_precision=PRECISION, out_dtype=ACC,
        )  # fmt: skip
    if INT8:
        b_acc *= 1.0 / SCALE_SHIFT
    return b_max, b_sum, b_acc


@triton.jit
def _attend_new(
    b_q, b_slope, b_k, b_v, b_max, b_sum, b_acc, token, window,
    SCALE: tl.constexpr, BLOCK_T: tl.constexpr, ALIBI: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Attend to the new tokens, given in registers as (BLOCK_T, HEADS * D); go on as in the ring.

    Rows behind the last new token are never visible: no query comes after them.
    """
    new = tl.arange(0, BLOCK_T)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION, out_dtype=ACC) * (SCALE * LOG2_E)
    if ALIBI:
        b_s += b_slope[:, None] * new.to(ACC)[None, :]
    distance = token[:, None] - new[None, :]
    visible = (distance >= 0) & (distance < window)
    b_p, b_decay, b_max, b_sum = _softmax_step(b_s, visible, b_max, b_sum)
    b_acc = tl.dot(
        b_p.to(b_q.dtype), b_v, b_acc * b_decay[:, None],
        input_precision=PRECISION, out_dtype=ACC,
    )  # fmt: skip
    return b_max, b_sum, b_acc


@triton.jit
def _decode_kernel(
    p_q, p_k, p_v, p_keys, p_values, p_key_scales, p_value_scales, p_lengths,
    p_slopes, p_cos, p_sin, p_out, p_lse,
    stride_q_batch, stride_q_token, stride_q_head,
    stride_k_batch, stride_k_token, stride_k_head,
    stride_v_batch, stride_v_token, stride_v_head,
    stride_rope_batch, stride_rope_token, stride_rope_feature,
    window, capacity, num_splits,
    SCALE: tl.constexpr, NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, NUM_NEW: tl.constexpr, ROWS: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr, ROPE: tl.constexpr, ALIBI: tl.constexpr, INT8: tl.constexpr,
    SPLIT: tl.constexpr, ADVANCE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from NUM_NEW tokens of one environment to one split of its band.

    Grid: (B * tiles of HEADS key/value heads, num_splits).

    q (B, T, H, D), k and v (B, T, Hkv, D) with contiguous features; keys and values
    (B, C, Hkv, D) and their scales (B, C, Hkv) contiguous; lengths (B,) int64.
    If SPLIT, out is (B, num_splits, T, H, D), normalised within each split, and lse
    (B, num_splits, T, H) the base-2 log-sum-exp, -inf where a row saw nothing (out unwritten);
    otherwise out is (B, T, H, D) and lse unused. ADVANCE moves `lengths` on by NUM_NEW, which only
    the sole program of an environment may do.
    """
    num_tiles: tl.constexpr = NUM_KV_HEADS // HEADS
    num_heads: tl.constexpr = NUM_KV_HEADS * GROUP
    row_stride: tl.constexpr = NUM_KV_HEADS * D
    dot_dtype: tl.constexpr = p_q.dtype.element_ty
    acc_dtype: tl.constexpr = tl.float64 if dot_dtype == tl.float64 else tl.float32
    batch = (tl.program_id(0) // num_tiles).to(tl.int64)
    first_head = tl.program_id(0) % num_tiles * HEADS
    split = tl.program_id(1)

    row = tl.arange(0, ROWS)
    token = row % NUM_NEW
    row_live = row < HEADS * GROUP * NUM_NEW
    # Key/value head within the tile; padding rows take the last one's, and a query of zeros.
    row_head = tl.minimum(row // (GROUP * NUM_NEW), HEADS - 1)
    query_head = first_head * GROUP + row // NUM_NEW
    out_row = ((batch * num_splits + split) * NUM_NEW + token) * num_heads + query_head

    # The band in order of positions: offset i stands at position first + i.
    old = tl.load(p_lengths + batch)
    first = tl.maximum(old - window + 1, 0)
    num_old = (old - first).to(tl.int32)
    per_split = tl.cdiv(tl.cdiv(num_old, num_splits), BLOCK_N) * BLOCK_N
    begin = split * per_split
    end = tl.minimum(begin + per_split, num_old)
    if SPLIT:  # noqa: SIM102 (a constant, which the compiler does not join with a value)
        if (split > 0) & (begin >= end):
            tl.store(p_lse + out_row, tl.full([ROWS], float("-inf"), acc_dtype), mask=row_live)
            return

    column = tl.arange(0, HEADS * D)
    column_head = column // D
    feature = column % D
    diagonal = row_live[:, None] & (row_head[:, None] == column_head[None, :])
    p_cos += batch * stride_rope_batch
    p_sin += batch * stride_rope_batch
    b_q = _load_rotated(
        p_q + batch * stride_q_batch
        + (token * stride_q_token + query_head * stride_q_head)[:, None],
        p_cos, p_sin, feature[None, :], token[:, None], diagonal,
        stride_rope_token, stride_rope_feature, D, ROPE, acc_dtype,
    ).to(dot_dtype)  # fmt: skip
    b_slope = b_q
    if ALIBI:
        b_slope = tl.load(p_slopes + query_head, mask=row_live, other=0.0).to(acc_dtype) * LOG2_E
    p_keys += batch * capacity * row_stride + first_head * D
    p_values += batch * capacity * row_stride + first_head * D
    p_key_scales += batch * capacity * NUM_KV_HEADS + first_head
    p_value_scales += batch * capacity * NUM_KV_HEADS + first_head
    first_slot = (first % capacity).to(tl.int32)
    # Query t sees the offsets from here on; only the first has the whole run in its window.
    b_first_seen = (old - window + 1 - first).to(tl.int32) + token
    b_max, b_sum, b_acc = _attend_ring(
        b_q, b_slope, p_keys, p_values, p_key_scales, p_value_scales,
        begin, end, num_old, first_slot, b_first_seen, capacity,
        row_head, column,
        SCALE, NUM_KV_HEADS, D, NUM_NEW, BLOCK_N, ALIBI, INT8, PRECISION, acc_dtype,
    )  # fmt: skip

    if split == 0:
        new = tl.arange(0, BLOCK_T)
        new_live = new < NUM_NEW
        new_head = (first_head + column_head)[None, :]
        slot = ((old + new) % capacity).to(tl.int32)
        b_k = _load_rotated(
            p_k + batch * stride_k_batch + new[:, None] * stride_k_token + new_head * stride_k_head,
            p_cos, p_sin, feature[None, :], new[:, None], new_live[:, None],
            stride_rope_token, stride_rope_feature, D, ROPE, acc_dtype,
        )  # fmt: skip
        b_v = _load_rotated(
            p_v + batch * stride_v_batch + new[:, None] * stride_v_token + new_head * stride_v_head,
            p_cos, p_sin, feature[None, :], new[:, None], new_live[:, None],
            stride_rope_token, stride_rope_feature, D, False, acc_dtype,
        )  # fmt: skip
        b_k = _append(
            b_k, p_keys, p_key_scales, slot, column, new_live,
            NUM_KV_HEADS, HEADS, D, BLOCK_T, INT8,
        ).to(dot_dtype)  # fmt: skip
        b_v = _append(
            b_v, p_values, p_value_scales, slot, column, new_live,
            NUM_KV_HEADS, HEADS, D, BLOCK_T, INT8,
        ).to(dot_dtype)  # fmt: skip
        b_max, b_sum, b_acc = _attend_new(
            b_q, b_slope, b_k, b_v, b_max, b_sum, b_acc, token, window,
            SCALE, BLOCK_T, ALIBI, PRECISION, acc_dtype,
        )  # fmt: skip

    b_norm = tl.where(b_sum == 0.0, 1.0, b_sum)
    tl.store(
        p_out + out_row[:, None] * D + feature[None, :],
        (b_acc / b_norm[:, None]).to(p_out.dtype.element_ty), mask=diagonal,
    )  # fmt: skip
    if SPLIT:
        b_lse = tl.where(b_sum == 0.0, float("-inf"), b_max + tl.log2(b_norm))
        tl.store(p_lse + out_row, b_lse, mask=row_live)
    if ADVANCE:
        # Every warp has read the length before one of them changes it.
        tl.debug_barrier()
        tl.store(p_lengths + batch, old + NUM_NEW)
