"""A kernel that writes the dropout mask of one tile, as the attention kernels make it."""

import torch
import triton
import triton.language as tl
from fastad_kernels.philox import drop_threshold
from fastad_kernels.triton.dropout import keep_mask

BLOCK_M, BLOCK_N = 32, 64


@triton.jit
def _mask_kernel(
    p_out, p_seed, batch_head, first_row, first_column, threshold,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows = first_row + tl.arange(0, BLOCK_M)
    keep = keep_mask(tl.load(p_seed), batch_head, rows, first_column, threshold, BLOCK_N)
    offsets = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    tl.store(p_out + offsets, keep.to(tl.int8))


def kernel_mask(seed, dropout, *, batch_head, first_row, first_column):
    """The mask of BLOCK_M rows and BLOCK_N columns, bool."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = torch.zeros(BLOCK_M, BLOCK_N, dtype=torch.int8, device=device)
    _mask_kernel[(1,)](
        out, torch.tensor([seed], device=device), batch_head, first_row, first_column,
        drop_threshold(dropout), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return out.bool()
