"""What a model is told of the step before, by one C++ kernel instead of five operations."""

import ctypes
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from fastad_kernels.native.build import library
from fastad_kernels.told import Told

DTYPES = (torch.int64, torch.float32, torch.bool, torch.bool)  # of what `take` is given


class _Told(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("action", "reward", "start", "step")),
        ("num_envs", c_int64),
    ]


class NativeTold(Told):
    """See `Told`; actions are (N,) int64, all tensors contiguous and on the CPU."""

    def __init__(self, action: Tensor, reward: Tensor, start: Tensor, step: Tensor) -> None:
        super().__init__(action, reward, start, step)
        own = (action, reward, start, step)
        fit = all(x.shape == action.shape and x.is_contiguous() and x.is_cpu for x in own)
        dtypes = tuple(x.dtype for x in own)
        if not fit or dtypes != (torch.int64, torch.float32, torch.bool, torch.int64):
            raise ValueError(
                f"action, reward, start and step are {dtypes} of shapes "
                f"{[tuple(x.shape) for x in own]}; they must be (N,), contiguous, on the CPU, and "
                "int64, float32, bool, int64"
            )
        self._struct = _Told(*(x.data_ptr() for x in own), len(action))
        self._pointer = ctypes.byref(self._struct)

    def take(self, action: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor) -> None:
        """See `Told.take`."""
        shape = self.step.shape
        if (
            (action.dtype, reward.dtype, terminated.dtype, truncated.dtype) == DTYPES
            and action.shape == reward.shape == terminated.shape == truncated.shape == shape
            and action.is_contiguous() and reward.is_contiguous()
            and terminated.is_contiguous() and truncated.is_contiguous()
            and action.is_cpu and reward.is_cpu and terminated.is_cpu and truncated.is_cpu
        ):  # fmt: skip
            library().fastad_tell(
                self._pointer, action.data_ptr(), reward.data_ptr(), terminated.data_ptr(),
                truncated.data_ptr(), 1,
            )  # fmt: skip
        else:
            super().take(action, reward, terminated, truncated)  # casts, or says what is wrong
