"""Distributions and draws: plain PyTorch, and kernels of the same bits (`softmax` rounds apart)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Implementation = Literal["auto", "reference"]

# Of logarithms that are raised to weights. Numbers below float32's normal range are slow to make,
# here some 20 times; torch.softmax, which makes them, is slow on short rows besides.
LEAST_LOG = -80.0


class Sample(NamedTuple):
    """What was drawn, and from what."""

    drawn: Tensor  # (N,) int64
    probs: Tensor  # (N, A)
    logits: Tensor  # (N, A)


def sample(logits: Tensor, uniform: Tensor) -> Sample:
    """Draw one entry per row from the softmax of logits, in PyTorch; see `draw`.

    Args:
        logits: (N, A).
        uniform: In [0, 1), (N, 1) float32.
    """
    probs = logits.softmax(dim=-1)
    return Sample(draw(probs, uniform), probs, logits)


def draw(probs: Tensor, uniform: Tensor, *, impl: Implementation = "reference") -> Tensor:
    """Draw one entry per row by inverting the cumulative distribution.

    Entries of probability 0 are never drawn.

    Args:
        probs: (N, A) float32, rows sum to 1.
        uniform: In [0, 1), (N, 1) float32.
        impl: "auto" takes the C++ kernel where it can be used; the entries are the same.

    Returns:
        (N,) int64.
    """
    if impl == "auto" and _is_for_kernels(probs):
        from fastad_kernels.native.draw import draw as native

        return native(probs, uniform)
    cumulative = probs.cumsum(dim=1)
    # Scaling by the row's own total keeps rounding from drawing past the last entry.
    return (cumulative <= uniform * cumulative[:, -1:]).sum(dim=1)


def normalise(
    weights: Tensor, *, epsilon: float = 0.0, impl: Implementation = "reference"
) -> Tensor:
    """Divide rows by their sums.

    Args:
        weights: (N, A) float32, none negative; changed in place.
        epsilon: Probability mass spread uniformly over the entries, on top.
        impl: As of `draw`.

    Returns:
        `weights`, distributions now.
    """
    if impl == "auto" and _is_for_kernels(weights):
        from fastad_kernels.native.draw import normalise, sums_like_pytorch

        if weights.is_contiguous() and sums_like_pytorch(weights.shape[1]):
            return normalise(weights, epsilon)
    weights.div_(weights.sum(dim=1, keepdim=True))
    return weights.mul_(1 - epsilon).add_(epsilon / weights.shape[1]) if epsilon > 0 else weights


def softmax(scores: Tensor, *, impl: Implementation = "reference") -> Tensor:
    """Distributions by scores: e^score, none less than e^`LEAST_LOG` of the largest, normalised.

    The kernel's least is 2^-100 of the largest.

    Args:
        scores: (..., A) float32.
        impl: "auto" takes the C++ kernel where it can be used; it rounds otherwise.

    Returns:
        (..., A) float32, contiguous.
    """
    if impl == "auto" and scores.ndim == 3 and scores.numel() > 0 and _is_for_kernels(scores):
        from fastad_kernels.native.draw import softmax

        return softmax(scores)
    weights = soft_exp(scores - scores.amax(dim=-1, keepdim=True))
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def soft_exp(values: Tensor) -> Tensor:
    """In-place exp of values <= 0, none smaller than that of `LEAST_LOG`."""
    return values.clamp_(min=LEAST_LOG).exp_()


def _is_for_kernels(rows: Tensor) -> bool:
    """Whether the C++ kernels can be used, and read them."""
    if not rows.is_cpu or rows.dtype != torch.float32:
        return False
    from fastad_kernels import native

    return native.why_unavailable() is None
