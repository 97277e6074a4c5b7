"""Stacked networks by the C++ kernels: a network goes through all of its layers at once."""

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from fastad_kernels.native.build import addresses, library

BORDER = 16  # hidden layers are multiples of it: whole vectors on every processor


class _Networks(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("num_networks", "num_blocks", "num_rows", "num_layers")),
        *((name, c_void_p) for name in ("sizes", "parameters", "passed", "strides", "between")),
    ]


class NativeStack:
    """The passes of a `StackedMLP`.

    The bits of a row depend on no other row, nor on the number of rows, networks or threads.

    Args:
        parameters: Of a `StackedMLP`, that the kernels take; read where they lie.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        num_networks, fan_in, _ = parameters[0].shape
        self._widths = [fan_in, *(bias.shape[2] for bias in parameters[1::2])]
        self._parameters, self._num_networks = list(parameters), num_networks
        number = len(self._widths)
        self._sizes = (c_int64 * number)(*self._widths)
        self._strides, self._between = ((c_int64 * number)() for _ in range(2))
        self._pointers, self._passed = addresses(parameters), (c_void_p * number)()
        arrays = (self._sizes, self._pointers, self._passed, self._strides, self._between)
        self._networks = _Networks(
            num_networks, 0, 0, number - 1, *[ctypes.addressof(array) for array in arrays]
        )

    @staticmethod
    def takes(parameters: Sequence[Tensor]) -> bool:
        """Whether the kernels know such layers."""
        hidden = [bias.shape[2] for bias in parameters[1:-1:2]]
        read = all(map(_is_read, parameters)) and all(p.numel() > 0 for p in parameters)
        return read and len(hidden) > 0 and all(width % BORDER == 0 for width in hidden)

    def forward(self, inputs: Tensor, out: Sequence[Tensor] | None) -> list[Tensor]:
        """See `StackedMLP.forward`.

        Raises:
            ValueError: If `inputs` or `out` do not fit or cannot be read.
        """
        if inputs.ndim != 3:
            raise ValueError(f"inputs {_describe(inputs)} must be (M, R, {self._widths[0]})")
        if out is None:
            shape = inputs.shape[:2]
            out = [torch.empty(*shape, width) for width in self._widths[1:]]
        passed = [inputs if _has_rows(inputs) else inputs.contiguous(), *out]
        self._point_to(passed)
        library().fastad_stacked_forward(ctypes.byref(self._networks), torch.get_num_threads())
        return passed

    def backward(
        self, passed: Sequence[Tensor], gradient: Tensor, gradients: Sequence[Tensor]
    ) -> None:
        """See `StackedMLP.backward`; nothing is used up.

        Args:
            passed: As of `StackedMLP.backward`.
            gradient: As of `StackedMLP.backward`.
            gradients: Where they are left, shaped like the parameters and contiguous.

        Raises:
            ValueError: If anything does not fit or cannot be read.
        """
        gradient = gradient.contiguous()
        self._point_to(passed)
        shapes = [passed[-1].shape, *(parameter.shape for parameter in self._parameters)]
        for x, shape in zip((gradient, *gradients), shapes, strict=True):
            if x.shape != shape or not (_is_read(x) and x.is_contiguous()):
                raise ValueError(f"a gradient is {_describe(x)} where {tuple(shape)} is wanted")
        library().fastad_stacked_backward(
            ctypes.byref(self._networks), gradient.data_ptr(), addresses(gradients),
            torch.get_num_threads(),
        )  # fmt: skip

    def _point_to(self, passed: Sequence[Tensor]) -> None:
        """Tell the kernels where the inputs, the hidden layers and the outputs lie."""
        *blocks, num_rows, _ = passed[0].shape[1:]
        wanted = [(self._num_networks, *blocks, num_rows, width) for width in self._widths]
        if [tuple(x.shape) for x in passed] != wanted or not all(map(_has_rows, passed)):
            raise ValueError(
                f"networks of {self._num_networks} x {self._widths} cannot pass through "
                f"{', '.join(map(_describe, passed))}"
            )
        self._networks.num_blocks, self._networks.num_rows = math.prod(blocks), num_rows
        self._passed[:] = [x.data_ptr() for x in passed]
        self._strides[:] = [x.stride(0) for x in passed]
        self._between[:] = [x.stride(1) for x in passed]


def _is_read(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_cpu


def _has_rows(x: Tensor) -> bool:
    """Whether the rows of a network's block, of (M, ..., R, size), lie one behind the other."""
    return x.stride()[-2:] == (x.shape[-1], 1) and 3 <= x.ndim <= 4 and _is_read(x)


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} of {x.dtype} on {x.device} with strides {x.stride()}"
