"""A whole frozen model by the C++ kernels: environment steps in, logits out, in one call."""

import ctypes
from ctypes import c_double, c_int64, c_void_p
from operator import is_

import torch
from torch import Tensor

from fastad_kernels import checks
from fastad_kernels.blocks import Affine
from fastad_kernels.cache import RingCache
from fastad_kernels.frozen import FrozenModel, StepTables
from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.decode import BORDER, NativeBlocks, pack
from fastad_kernels.native.draw import draw_at_once


class _Embedding(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in (*StepTables._fields, "offsets")),
        *((name, c_int64) for name in ("num_coordinates", "num_actions", "num_cells")),
        *((name, c_int64) for name in ("episode_length", "num_places")),
        *((name, c_double) for name in ("reward_shift", "reward_scale")),
    ]


class _Fields(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("action", "reward", "coordinates", "features")),
        *((name, c_void_p) for name in ("start", "step", "position")),
    ]


class _Readout(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("norm_weight", "norm_bias", "weight", "bias")),
        ("num_logits", c_int64),
        ("logits", c_void_p),
    ]


class NativeModel(FrozenModel):
    """See `FrozenModel`; a row's bits depend on no other environment.

    Args:
        tables: Rows, float32 on the CPU, contiguous; not copied.
        blocks: Of the same width.
        norm: Of what the head reads, or None.
        head: (A, width).
        offsets: Added to coordinates, (coordinates,) int64; None where observations are features.
        reward_shift: Subtracted from rewards.
        reward_scale: Divides them then.
    """

    def __init__(
        self,
        tables: StepTables,
        blocks: NativeBlocks,
        *,
        norm: Affine | None,
        head: Affine,
        offsets: Tensor | None,
        reward_shift: float,
        reward_scale: float,
    ) -> None:
        self.blocks, self.num_logits = blocks, len(head.bias)
        self.size = None if offsets is None else len(offsets)
        self.per_step = 1 if tables.kind is None else 3
        # Whatever C sees by its address lives as long as this does.
        self._kept = (*tables, offsets, *(norm or (None, None)), *pack(head))
        self._embedding = _Embedding(
            *addresses((*tables, offsets)), self.size or 0,
            *(0 if x is None else len(x)
              for x in (tables.action, tables.observation, tables.step, tables.place)),
            reward_shift, reward_scale,
        )  # fmt: skip
        self._readout = _Readout(*addresses(self._kept[-4:]), self.num_logits)
        self._has_places = tables.place is not None
        self._tokens = torch.empty(0)  # memory for those of a step
        self._told: tuple[Tensor | None, ...] = (None,) * 4  # the last step's fields
        self._fields, self._wrong = _Fields(), c_int64()
        structs = (self._embedding, self._fields, self._readout, self._wrong)
        self._pointers = tuple(map(ctypes.byref, structs))  # the last arguments of the call

    def make_rings(self, batch_size: int, capacity: int) -> list[RingCache]:
        """See `FrozenModel.make_rings`."""
        return self.blocks.make_rings(batch_size, capacity)

    def draw(self, probs: Tensor, uniform: Tensor) -> Tensor:
        """See `FrozenModel.draw`."""
        return draw_at_once(probs, uniform)

    def decode(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        start: Tensor,
        step: Tensor,
        rings: list[RingCache],
        *,
        positions: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """See `FrozenModel.decode`."""
        told = (action, reward, start, step)
        # An agent shows the same memory at every step.
        if not all(map(is_, told, self._told)):
            self._tell(*told)
        (batch, length), fields, wrong = action.shape, self._fields, self._wrong
        num_new = length * self.per_step
        self._check_observation(observation, action)
        checks.check_no_grad(observation=observation, reward=reward)
        observation = observation.contiguous()
        if self.size is None:
            fields.features = observation.data_ptr()
        else:
            fields.coordinates = observation.data_ptr()
        if self._has_places:
            assert positions is not None
            positions = positions.long().expand(batch, num_new).contiguous()
            fields.position = positions.data_ptr()
        if self._tokens.shape[:2] != (batch, num_new):
            width = self.blocks.width
            self._tokens = torch.empty(batch, num_new, width + -width % BORDER)
        logits = torch.empty(batch, length, self.num_logits)
        self._readout.logits = logits.data_ptr()
        arguments = self.blocks.arguments(self._tokens, rings, rope)
        library().fastad_decode_steps(*arguments.pointers, *self._pointers, torch.get_num_threads())
        if wrong.value:
            raise IndexError(
                f"{wrong.value} of {batch * length} steps have an action, observation, step or "
                "position that is not in the model's tables"
            )
        for ring in rings:
            ring.advance(num_new)
        return logits

    def _tell(self, action: Tensor, reward: Tensor, start: Tensor, step: Tensor) -> None:
        """Check what the kernels will trust, and keep it: they see its address."""
        shown = (action, reward, start, step)
        dtypes = tuple(x.dtype for x in shown)
        if dtypes != (torch.int64, torch.float32, torch.bool, torch.int64):
            raise ValueError(f"action, reward, start, step are {dtypes}; see `FrozenModel.decode`")
        shapes = [tuple(x.shape) for x in shown]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"action, reward, start, step do not fit together: shapes {shapes}")
        if not all(x.is_cpu for x in shown):
            raise ValueError(f"steps are on {action.device}; the C++ kernels are for CPUs")
        # Copies are not what is shown at the next step, and are made anew.
        self._told = told = tuple(x.contiguous() for x in shown)
        fields = self._fields
        fields.action, fields.reward, fields.start, fields.step = (x.data_ptr() for x in told)

    def _check_observation(self, observation: Tensor, action: Tensor) -> None:
        size = self.size or self.blocks.width
        dtype = torch.float32 if self.size is None else torch.int64
        if observation.dtype != dtype or not observation.is_cpu:
            raise ValueError(
                f"observation is {observation.dtype} on {observation.device}; it must be {dtype} "
                "on a CPU"
            )
        if observation.numel() != action.numel() * size:
            raise ValueError(
                f"shapes do not fit together: action {tuple(action.shape)}, observation "
                f"{tuple(observation.shape)}"
            )
