"""A whole frozen model by the C++ kernels: environment steps in, logits out, in one call."""

import ctypes
from ctypes import c_double, c_int64, c_void_p
from operator import is_

import torch
from torch import Tensor

from fastad_kernels import checks
from fastad_kernels.blocks import Affine
from fastad_kernels.cache import RingCache
from fastad_kernels.drawing import Sample
from fastad_kernels.frozen import FrozenModel, StepTables
from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.decode import BORDER, NativeBlocks, pack
from fastad_kernels.native.slots import Slots


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
        *((name, c_void_p) for name in ("logits", "uniform", "probs", "drawn")),
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
        self._dtype = torch.float32 if self.size is None else torch.int64  # of observations
        # The last step's fields and their shape, the numbers of its observations, and memory for
        # its tokens and for what is sampled.
        self._told: tuple[Tensor, ...] = (torch.empty(0),) * 4
        self._samples = Slots()
        self._shape, self._numel, self._tokens = torch.Size(), 0, torch.empty(0)
        self._fields, self._wrong = _Fields(), c_int64()
        structs = (self._embedding, self._fields, self._readout, self._wrong)
        self._pointers = tuple(map(ctypes.byref, structs))  # the last arguments of the call

    def make_rings(self, batch_size: int, capacity: int) -> list[RingCache]:
        """See `FrozenModel.make_rings`."""
        return self.blocks.make_rings(batch_size, capacity)

    def decode(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        start: Tensor,
        step: Tensor,
        rings: list[RingCache],
        positions: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """See `FrozenModel.decode`."""
        self._look_at(action, reward, start, step)
        logits = torch.empty(*self._shape, self.num_logits, device="cpu")
        self._readout.uniform, self._readout.logits = None, logits.data_ptr()
        self._decode(observation, reward, rings, positions, rope)
        return logits

    def sample(
        self,
        uniform: Tensor,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        start: Tensor,
        step: Tensor,
        rings: list[RingCache],
        positions: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Sample:
        """See `FrozenModel.sample`."""
        self._look_at(action, reward, start, step)
        (batch, length), size, readout = self._shape, self.num_logits, self._readout
        if uniform.shape != (batch, 1) or uniform.dtype != torch.float32 or not uniform.is_cpu:
            raise ValueError(
                f"uniform is {uniform.dtype} of shape {tuple(uniform.shape)} on {uniform.device}; "
                f"it must be float32 of shape {(batch, 1)} on a CPU"
            )
        uniform = uniform.contiguous()
        (logits, probs, drawn), addresses = self._samples.take()
        readout.uniform = uniform.data_ptr()
        readout.logits, readout.probs, readout.drawn = addresses
        self._decode(observation, reward, rings, positions, rope)
        return Sample(drawn, probs, logits if length == 1 else logits[:, -size:])

    def _decode(
        self,
        observation: Tensor,
        reward: Tensor,
        rings: list[RingCache],
        positions: Tensor | None,
        rope: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Write what `_readout` asks for.

        The other fields of the steps are those last looked at.
        """
        is_read = observation.dtype is self._dtype and observation.is_cpu
        if not is_read or observation.numel() != self._numel:
            self._refuse(observation)
        if torch.is_grad_enabled():
            checks.check_no_grad(observation=observation, reward=reward)
        fields, observation = self._fields, observation.contiguous()
        if self.size is None:
            fields.features = observation.data_ptr()
        else:
            fields.coordinates = observation.data_ptr()
        tokens = self._tokens
        batch, num_new, _ = tokens.shape
        if self._has_places:
            assert positions is not None
            positions = positions.long().expand(batch, num_new).contiguous()
            fields.position = positions.data_ptr()
        arguments = self.blocks.arguments(tokens, rings, rope)
        library().fastad_decode_steps(*arguments.pointers, *self._pointers, torch.get_num_threads())
        if self._wrong.value:
            raise IndexError(
                f"{self._wrong.value} of {self._shape.numel()} steps have an action, observation, "
                "step or position that is not in the model's tables"
            )
        for ring in rings:
            ring.advance(num_new)

    def _look_at(self, *shown: Tensor) -> None:
        """Check action, reward, start and step, and keep them: the kernels see their address."""
        # An agent shows the same memory at every step.
        if shown[0].shape == self._shape and all(map(is_, shown, self._told)):
            return
        dtypes = tuple(x.dtype for x in shown)
        if dtypes != (torch.int64, torch.float32, torch.bool, torch.int64):
            raise ValueError(f"action, reward, start, step are {dtypes}; see `FrozenModel.decode`")
        shapes = [tuple(x.shape) for x in shown]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"action, reward, start, step do not fit together: shapes {shapes}")
        if not all(x.is_cpu for x in shown):
            raise ValueError(f"steps are on {shown[0].device}; the C++ kernels are for CPUs")
        if len(shapes[0]) != 2 or 0 in shapes[0]:
            raise ValueError(f"steps have shape {shapes[0]}; they must be (B, T), not empty")
        if shown[0].shape != self._shape:
            self._shape, width = shown[0].shape, self.blocks.width
            self._numel = self._shape.numel() * (self.size or width)
            batch, length = self._shape
            shape = batch, length * self.per_step, width + -width % BORDER
            self._tokens = torch.empty(shape, device="cpu")
            size, f32 = self.num_logits, torch.float32
            self._samples = Slots(
                ((batch, length * size), f32), ((batch, size), f32), ((batch,), torch.int64)
            )
        # Copies are not what is shown at the next step, and are made anew.
        self._told = told = tuple(x.contiguous() for x in shown)
        fields = self._fields
        fields.action, fields.reward, fields.start, fields.step = (x.data_ptr() for x in told)

    def _refuse(self, observation: Tensor) -> None:
        """Say why the kernels cannot read an observation."""
        if observation.dtype != self._dtype or not observation.is_cpu:
            raise ValueError(
                f"observation is {observation.dtype} on {observation.device}; it must be "
                f"{self._dtype} on a CPU"
            )
        raise ValueError(
            f"shapes do not fit together: action {tuple(self._shape)}, observation "
            f"{tuple(observation.shape)}"
        )
