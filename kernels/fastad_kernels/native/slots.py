"""Memory for what kernels return, allocated for several calls at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Of larger blocks malloc would map the pages anew.
MAX_SLOTS, MAX_BYTES = 32, 2**17


class Slots:
    """Tensors for one call after another, which belong to whoever gets them.

    Between two steps of a model an allocation takes as long as a small kernel. Of small tensors,
    those of up to `MAX_SLOTS` calls are made at once; whoever keeps one keeps the memory of all.

    Args:
        kinds: Shapes and dtypes of what one call returns.
    """

    def __init__(self, *kinds: tuple[Sequence[int], torch.dtype]) -> None:
        size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in kinds)
        self._num, self._kinds = max(1, min(MAX_SLOTS, MAX_BYTES // max(1, size))), kinds
        self._free: list[tuple[tuple[Tensor, ...], list[int]]] = []

    def take(self) -> tuple[tuple[Tensor, ...], list[int]]:
        """A tensor of every kind, and their addresses."""
        if not self._free:
            self._allocate()
        return self._free.pop()

    @torch.inference_mode(False)  # whoever gets them may do with them what they want
    def _allocate(self) -> None:
        blocks = [
            torch.empty(self._num, *shape, dtype=dtype, device="cpu")
            for shape, dtype in self._kinds
        ]
        # By arithmetic: a tensor says where it lies in a tenth of a microsecond.
        places = [(block.data_ptr(), block.nbytes // self._num) for block in blocks]
        self._free = [
            (tensors, [first + slot * size for first, size in places])
            for slot, tensors in enumerate(zip(*(x.unbind() for x in blocks), strict=True))
        ]
