"""A whole frozen model by the C++ kernels: environment steps in, logits out, in one call."""

import ctypes
from ctypes import c_double, c_int64, c_void_p

import torch
from torch import Tensor

from fastad_kernels import checks
from fastad_kernels.blocks import Affine
from fastad_kernels.cache import RingCache
from fastad_kernels.frozen import FrozenModel, StepTables
from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.decode import BORDER, NativeBlocks, pack


class _Embedding(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in (*StepTables._fields, "offsets")),
        *((name, c_int64) for name in ("num_coordinates", "num_actions", "num_cells")),
        *((name, c_int64) for name in ("episode_length", "num_places")),
        *((name, c_double) for name in ("reward_shift", "reward_scale")),
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
        *,
        positions: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """See `FrozenModel.decode`."""
        batch, length = action.shape
        self._check_fields(observation, action, reward, start, step)
        num_new = length * self.per_step
        if self._has_places:
            assert positions is not None
            positions = positions.long().expand(batch, num_new)
        coordinates, features = (None, observation) if self.size is None else (observation, None)
        # These must live until the call is over: C sees nothing but their addresses.
        fields = [
            x if x is None or x.is_contiguous() else x.contiguous()
            for x in (action, reward, coordinates, features, start, step, positions)
        ]
        if self._tokens.shape[:2] != (batch, num_new):
            width = self.blocks.width
            self._tokens = torch.empty(batch, num_new, width + -width % BORDER)
        logits = torch.empty(batch, length, self.num_logits)
        self._readout.logits = logits.data_ptr()
        arguments, wrong = self.blocks.arguments(self._tokens, rings, rope), c_int64()
        library().fastad_decode_steps(
            *arguments.pointers(), ctypes.byref(self._embedding), addresses(fields),
            ctypes.byref(self._readout), ctypes.byref(wrong), torch.get_num_threads(),
        )  # fmt: skip
        if wrong.value:
            raise IndexError(
                f"{wrong.value} of {batch * length} steps have an action, observation, step or "
                "position that is not in the model's tables"
            )
        for ring in rings:
            ring.advance(num_new)
        return logits

    def _check_fields(
        self, observation: Tensor, action: Tensor, reward: Tensor, start: Tensor, step: Tensor
    ) -> None:
        """The kernels trust what they are given."""
        of_observation = torch.float32 if self.size is None else torch.int64
        dtypes = (observation.dtype, action.dtype, reward.dtype, start.dtype, step.dtype)
        if dtypes != (of_observation, torch.int64, torch.float32, torch.bool, torch.int64):
            raise ValueError(
                f"observation, action, reward, start, step are {dtypes}; see `FrozenModel.decode`"
            )
        shape, size = action.shape, self.size or self.blocks.width
        if not (shape == reward.shape == start.shape == step.shape) or (
            observation.numel() != action.numel() * size
        ):
            raise ValueError(
                f"shapes do not fit together: action {tuple(shape)}, reward, start and step "
                f"{[tuple(x.shape) for x in (reward, start, step)]}, observation "
                f"{tuple(observation.shape)}"
            )
        if any(x.device.type != "cpu" for x in (observation, action, reward, start, step)):
            raise ValueError(f"steps are on {action.device}; the C++ kernels are for CPUs")
        checks.check_no_grad(observation=observation, reward=reward)
