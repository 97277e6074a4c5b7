"""Merge the splits of a decode step."""

import triton
import triton.language as tl


@triton.jit
def _combine_kernel(
    p_partial, p_lse, p_out, p_lengths,
    num_splits, num_new, num_rows,
    D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Weigh each split's result by its share of the softmax's sum.

    Grid: (B, blocks of ROWS rows); a row is one (token, head), `num_rows` = T * H of them.

    partial (B, num_splits, T, H, D), lse (B, num_splits, T, H) in base 2, -inf where a split saw
    nothing and left its row of `partial` unwritten; out (B, T, H, D). The first program of an
    environment moves `lengths` on: the decode kernel, whose splits all read it, is over by now.
    """
    batch = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    row = block * ROWS + tl.arange(0, ROWS)
    live = row < num_rows
    feature = tl.arange(0, D)
    acc_dtype: tl.constexpr = p_partial.dtype.element_ty
    b_max = tl.full([ROWS], float("-inf"), acc_dtype)
    b_sum = tl.zeros([ROWS], acc_dtype)
    b_acc = tl.zeros([ROWS, D], acc_dtype)
    for split in tl.range(0, num_splits):
        p_row = (batch * num_splits + split) * num_rows + row
        # Padding rows take any finite number.
        b_lse = tl.load(p_lse + p_row, mask=live, other=0.0)
        seen = live & (b_lse > float("-inf"))
        b_partial = tl.load(
            p_partial + p_row[:, None] * D + feature[None, :], mask=seen[:, None], other=0.0
        )
        # Finite from the first on: split 0 holds the new tokens, and a query sees itself.
        b_max_new = tl.maximum(b_max, b_lse)
        b_weight = tl.exp2(b_lse - b_max_new)
        b_decay = tl.exp2(b_max - b_max_new)
        b_sum = b_sum * b_decay + b_weight
        b_acc = b_acc * b_decay[:, None] + b_partial * b_weight[:, None]
        b_max = b_max_new
    tl.store(
        p_out + (batch * num_rows + row)[:, None] * D + feature[None, :],
        (b_acc / b_sum[:, None]).to(p_out.dtype.element_ty), mask=live[:, None],
    )  # fmt: skip
    if block == 0:
        old = tl.load(p_lengths + batch)
        tl.debug_barrier()
        tl.store(p_lengths + batch, old + num_new)
