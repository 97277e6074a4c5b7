"""What both backward kernels do: find their tokens and tiles, read rows, and apply the mask."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Whatever varies from batch to batch must not compile a kernel anew.
VARYING = [
    "num_blocks", "num_queries", "num_keys", "stride_lb", "stride_lh", "window", "threshold",
]  # fmt: skip


@triton.jit
def _sequence(p_cu_seqlens, batch, length, PACKED: tl.constexpr):
    """First token within a packed batch, int64 (0 if it is not packed), and number of tokens."""
    first = batch * 0
    if PACKED:
        first = tl.load(p_cu_seqlens + batch).to(tl.int64)
        length = (tl.load(p_cu_seqlens + batch + 1) - first).to(tl.int32)
    return first, length


@triton.jit
def _tile_bounds(low, high, full_low, full_high, BLOCK: tl.constexpr):
    """Which tiles touch [low, high), and which of those lie within [full_low, full_high).

    Returns:
        first: The first tile.
        full_first: The first whole one.
        num_masked: How many are not whole.
        num_full: How many are.
    """
    first = low // BLOCK
    last = tl.maximum(first, tl.cdiv(high, BLOCK))
    full_first = tl.minimum(tl.maximum(first, tl.cdiv(full_low, BLOCK)), last)
    num_full = tl.minimum(tl.maximum(full_first, full_high // BLOCK), last) - full_first
    return first, full_first, last - first - num_full, num_full


@triton.jit
def _visible(distance, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Whether a query sees the key `distance` tokens before it."""
    if CAUSAL and WINDOW:
        # As an unsigned number a negative distance is beyond every window.
        return distance.to(tl.uint32) < window.to(tl.uint32)
    if WINDOW:
        return distance < window
    return distance >= 0


@triton.jit
def _load_rows(p_x, stride, start, low, high, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr,
               MASKED: tl.constexpr):  # fmt: skip
    """Rows start, start + 1, ... as (BLOCK, HEAD_DIM); those outside [low, high) as zeros."""
    rows = tl.arange(0, BLOCK)
    # Offsets within the tile fit 32 bits and do not change from tile to tile.
    p_tile = p_x + start.to(tl.int64) * stride
    offsets = rows[:, None] * stride + tl.arange(0, HEAD_DIM)[None, :]
    if MASKED:
        inside = (start + rows >= low) & (start + rows < high)
        return tl.load(p_tile + offsets, mask=inside[:, None], other=0.0)
    return tl.load(p_tile + offsets)
