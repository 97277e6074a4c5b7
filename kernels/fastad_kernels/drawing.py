"""Drawing from distributions: in plain PyTorch, and by kernels that are held to it bit by bit."""

from typing import Literal

import torch
from torch import Tensor


def draw(
    probs: Tensor, uniform: Tensor, *, impl: Literal["auto", "reference"] = "reference"
) -> Tensor:
    """Draw one entry per row by inverting the cumulative distribution.

    Entries of probability 0 are never drawn.

    Args:
        probs: (N, A) float32, rows sum to 1.
        uniform: In [0, 1), (N, 1) float32.
        impl: "auto" takes the C++ kernel where it can be used; the entries are the same.

    Returns:
        (N,) int64.
    """
    if impl == "auto" and probs.is_cpu and probs.dtype == torch.float32:
        from fastad_kernels import native

        if native.why_unavailable() is None:
            return native.draw(probs, uniform)
    cumulative = probs.cumsum(dim=1)
    # Scaling by the row's own total keeps rounding from drawing past the last entry.
    return (cumulative <= uniform * cumulative[:, -1:]).sum(dim=1)
