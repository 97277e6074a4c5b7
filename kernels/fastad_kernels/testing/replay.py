"""A CUDA graph's rules, kept on any device: record a step, then repeat it without Python.

A CUDA graph repeats kernels with the arguments that they had when it was recorded: the same
memory, the same shapes, the same numbers from the host. A step that keeps state in a Python
number, rebinds a tensor instead of updating it, or chooses a slot on the host does something else
when it is replayed than when it is run. `Recording` shows that without a GPU:

    with forbid_host_sync(), Recording() as recording:
        step()
    recording.replay()  # must do what one more step() would have done

Random numbers are drawn anew at every replay, as from a generator registered with a graph.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recording(TorchDispatchMode):
    """Takes down every operation below autograd, with the tensors it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tree_leaves(out)))
        return out

    def replay(self) -> None:
        """Perform the same operations on the same memory once more."""
        with torch.inference_mode():
            for func, args, kwargs, outputs in self.calls:
                for output, again in zip(outputs, tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(output, Tensor) and output.data_ptr() != again.data_ptr():
                        output.copy_(again)
