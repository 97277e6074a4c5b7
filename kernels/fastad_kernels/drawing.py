"""Drawing from distributions in plain PyTorch, which `FrozenModel.draw` is held to bit by bit."""

from torch import Tensor


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw one entry per row by inverting the cumulative distribution.

    Entries of probability 0 are never drawn.

    Args:
        probs: (N, A) float32, rows sum to 1.
        uniform: In [0, 1), (N, 1) float32.

    Returns:
        (N,) int64.
    """
    cumulative = probs.cumsum(dim=1)
    # Scaling by the row's own total keeps rounding from drawing past the last entry.
    return (cumulative <= uniform * cumulative[:, -1:]).sum(dim=1)
