"""The memory of one launch as `addresses` sees it: who read and wrote each element, and how often.

Needs NumPy and PyTorch alone.
"""

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class Bytes:
    """Bytes accessed in one direction.

    Attributes:
        total: By every unmasked lane of every access.
        per_program: Distinct within each program, summed over programs: what a GPU moves if
            caches only serve repeats within a program.
        unique: Distinct: what any kernel has to move.
    """

    total: int = 0
    per_program: int = 0
    unique: int = 0


@dataclass
class Traffic:
    """Bytes of one tensor; of all of them together where several share one storage."""

    read: Bytes = field(default_factory=Bytes)
    written: Bytes = field(default_factory=Bytes)


class Memory:
    """One storage, with shadow entries per element: who read it and who wrote it last.

    Programs are numbers from 0 on, -1 is nobody.
    """

    def __init__(self, storage: torch.UntypedStorage, itemsize: int) -> None:
        self.start, self.itemsize = storage.data_ptr(), itemsize
        self.end = self.start + storage.nbytes()
        self.names: list[str] = []
        num_elements = storage.nbytes() // itemsize
        self.valid = np.zeros(num_elements, dtype=bool)
        self.reader = np.full(num_elements, -1, dtype=np.int32)
        self.has_several_readers = np.zeros(num_elements, dtype=bool)
        self.writer = np.full(num_elements, -1, dtype=np.int32)
        self.is_fresh = np.zeros(num_elements, dtype=bool)  # stored since the last barrier
        self.traffic = Traffic()

    @property
    def name(self) -> str:
        """Names of its tensors."""
        return "+".join(self.names)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Allow access to the elements of a view."""
        self.names.append(name)
        ratio = tensor.element_size() // self.itemsize
        torch.from_numpy(self.valid).as_strided(
            (*tensor.shape, ratio),
            (*(stride * ratio for stride in tensor.stride()), 1),
            tensor.storage_offset() * ratio,
        ).fill_(True)

    def find(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Shadow indices (accesses, elements of each); -1 where one is not of a tensor."""
        index = ((addresses - self.start) // self.itemsize)[:, None]
        index = index + np.arange(-(-size // self.itemsize))
        inside = (index >= 0) & (index < len(self.valid))
        inside &= self.valid[np.where(inside, index, 0)]
        return np.where(inside.all(axis=1, keepdims=True), index, -1)


def count_bytes(
    counted: Bytes, memory: Memory, index: np.ndarray, last: np.ndarray, number: int
) -> None:
    """Add an access to the bytes of its direction; `last` holds who touched each element last."""
    before = last[index]
    counted.total += index.size * memory.itemsize
    counted.per_program += np.unique(index[before != number]).size * memory.itemsize
    counted.unique += np.unique(index[before < 0]).size * memory.itemsize
    last[index] = number
