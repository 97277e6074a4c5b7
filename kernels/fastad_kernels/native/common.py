"""What the operators of the C++ kernels have in common."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.cache import COLUMN_MULTIPLE


def takes_rows(weights: Sequence[Tensor], rows: Sequence[Tensor]) -> bool:
    """Whether kernels of whole rows can do it: whole vectors of float32 on a CPU, no autocast.

    Args:
        weights: Matrices and vectors whose sizes are the lengths of rows.
        rows: What they are applied or added to, (..., a row).
    """
    whole = all(size % COLUMN_MULTIPLE == 0 for w in weights for size in w.shape)
    plain = all(y.dtype == torch.float32 and y.device.type == "cpu" for y in (*weights, *rows))
    return whole and plain and not torch.is_autocast_enabled("cpu")


def refuse_second_backward(ctx: Any, *gradients: Tensor) -> None:
    """Kernels give first derivatives only."""
    raise NotImplementedError(
        "impl='native' gives first derivatives only; second ones (create_graph=True, gradient "
        "penalties, Hessians) need impl='reference'"
    )
