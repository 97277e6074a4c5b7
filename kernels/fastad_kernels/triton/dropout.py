"""The dropout mask inside a kernel, bit for bit that of `fastad_kernels.philox`.

One Philox call of 7 rounds yields 16 bytes, one for each of 16 neighbouring columns, so that the
mask costs a few instructions per score and any pass can make any tile of it again.
"""

import triton
import triton.language as tl

ROUNDS = tl.constexpr(7)
# Columns that share a Philox call; tiles start at multiples of it and are multiples of it wide.
COLUMNS_PER_CALL = tl.constexpr(16)


@triton.jit
def keep_mask(seed, batch_head, rows, first_column, threshold, BLOCK_N: tl.constexpr):
    """Which weights of a tile dropout keeps.

    Args:
        seed: int64 scalar.
        batch_head: Sequence number * H + query head, int32 scalar.
        rows: Query indices within the sequence, (BLOCK_M,) int32.
        first_column: Key index within the sequence of the tile's first column, a multiple of 16.
        threshold: Of 256; a weight is kept where its byte is at least this.
        BLOCK_N: Columns of the tile, a multiple of 16.

    Returns:
        (BLOCK_M, BLOCK_N) int1.
    """
    BLOCK_M: tl.constexpr = rows.shape[0]
    CALLS: tl.constexpr = BLOCK_N // COLUMNS_PER_CALL
    columns = first_column // COLUMNS_PER_CALL + tl.arange(0, CALLS)
    c0 = tl.broadcast_to(columns[None, :], (BLOCK_M, CALLS)).to(tl.uint32)
    c1 = tl.broadcast_to(rows[:, None], (BLOCK_M, CALLS)).to(tl.uint32)
    c2 = tl.zeros((BLOCK_M, CALLS), tl.uint32) + batch_head.to(tl.uint32)
    c3 = tl.zeros((BLOCK_M, CALLS), tl.uint32)
    word0, word1, word2, word3 = tl.philox(seed, c0, c1, c2, c3, ROUNDS)
    # join stacks along a new last axis, which after the second join is the outer one's choice.
    words = tl.join(tl.join(word0, word2), tl.join(word1, word3))  # (BLOCK_M, CALLS, 2, 2)
    words = tl.reshape(words, (BLOCK_M, BLOCK_N // 4))
    shifts = (tl.arange(0, 4) * 8).to(tl.uint32)
    drawn = ((words[:, :, None] >> shifts[None, None, :]) & 0xFF).to(tl.int32)
    return tl.reshape(drawn, (BLOCK_M, BLOCK_N)) >= threshold
