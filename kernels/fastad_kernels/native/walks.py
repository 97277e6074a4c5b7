"""Episodes in worlds that are tables, by one C++ kernel a step instead of 6 to 15 operations."""

import ctypes
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from fastad_kernels.native.build import library
from fastad_kernels.walks import Walked, Walks, World

# Steps whose results are allocated together, of few walkers: an allocation takes as long as a step.
# Whoever keeps one of them keeps the memory of all.
MAX_SLOTS, MAX_PLACES = 32, 2048


class _Walks(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("moves", "observations", "targets", "permutation")),
        *((name, c_void_p) for name in ("cell", "time", "collected", "seen", "cells")),
        *((name, c_void_p) for name in ("reward", "terminated", "truncated")),
        *((name, c_int64) for name in ("num_walkers", "num_cells", "num_actions")),
        *((name, c_int64) for name in ("num_features", "num_phases", "episode_length")),
        *((name, c_int64) for name in ("num_slots", "slot", "num_ended", "wrong")),
    ]


class NativeWalks(Walks):
    """See `Walks`; on the CPU."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._check(world)
        self._tables = [x.contiguous() for x in world[:3]]  # alive as long as their addresses
        self._permutation = None if world.permutation is None else world.permutation.contiguous()
        moves, observations, targets = self._tables
        num_walkers = len(targets)
        self._shape, self._num_features = self._cell.shape, observations.shape[1]
        self._num_slots = max(1, min(MAX_SLOTS, MAX_PLACES // num_walkers))
        self._struct = _Walks(
            moves.data_ptr(), observations.data_ptr(), targets.data_ptr(),
            None if self._permutation is None else self._permutation.data_ptr(),
            self._cell.data_ptr(), self._time.data_ptr(), self._collected.data_ptr(),
            num_walkers=num_walkers, num_cells=self.num_cells, num_actions=self.num_actions,
            num_features=self._num_features, num_phases=self.num_phases,
            episode_length=world.episode_length, num_slots=self._num_slots,
        )  # fmt: skip
        self._pointer = ctypes.byref(self._struct)
        self._slot = self._num_slots  # the one filled last: what there is is used up
        self._began = False  # whether an episode did with the latest step

    def cell(self, observation: Tensor) -> Tensor | None:
        """See `Walks.cell`."""
        if self._slot == self._num_slots:
            return None
        if observation is self._seen[self._slot]:
            return self._cells[0, self._slot]
        if self._began and observation is self._seen[self._num_slots + self._slot]:
            return self._cells[1, self._slot]
        return None

    def step(self, action: Tensor, start: Tensor) -> Walked:
        """See `Walks.step`."""
        for x in (action, start):
            if x.dtype is not torch.int64 or x.shape != self._shape or not x.is_cpu:
                raise ValueError(
                    f"actions and starts are {[(tuple(y.shape), y.dtype) for y in (action, start)]}"
                    f"; they must be {tuple(self._shape)} int64 on the CPU"
                )
        action, start = action.contiguous(), start.contiguous()
        slot = self._slot + 1
        if slot >= self._num_slots:
            self._allocate()
            slot = 0
        struct = self._struct
        struct.slot = slot
        library().fastad_walk(self._pointer, action.data_ptr(), start.data_ptr(), 1)
        if struct.wrong:
            raise IndexError(
                f"{struct.wrong} of {struct.num_walkers} walkers have an action not in "
                f"0..{self.num_actions - 1}, or begin in a cell not in 0..{self.num_cells - 1}"
            )
        self._slot, self._began = slot, struct.num_ended > 0
        final = self._seen[slot]
        return Walked(
            self._seen[self._num_slots + slot] if self._began else final, self._reward[slot],
            self._terminated[slot] if self.world.terminates else self._never,
            self._truncated[slot], final,
        )  # fmt: skip

    @torch.inference_mode(False)  # whoever gets them may do with them what they want
    def _allocate(self) -> None:
        """Memory for the results of the next steps; what was given away belongs to others."""
        num, walkers, features = self._num_slots, len(self._cell), self._num_features
        places = torch.empty(2 * num, walkers, features, dtype=torch.int64)
        self._cells = torch.empty(2, num, walkers, dtype=torch.int64)
        reward = torch.empty(num, walkers)
        flags = torch.empty(1 + self.world.terminates, num, walkers, dtype=torch.bool)
        self._seen, self._reward = places.unbind(), reward.unbind()
        self._truncated, self._terminated = flags[0].unbind(), flags[-1].unbind()
        struct = self._struct
        struct.seen, struct.cells = places.data_ptr(), self._cells.data_ptr()
        struct.reward, struct.truncated = reward.data_ptr(), flags.data_ptr()
        struct.terminated = flags[1].data_ptr() if self.world.terminates else None

    def _check(self, world: World) -> None:
        """Refuse tables that the kernel would read beyond."""
        tables = [x for x in world[:4] if isinstance(x, Tensor)]
        num_walkers, num_actions = len(world.targets), self.num_actions
        shapes_fit = len(world.observations) == self.num_cells and (
            world.permutation is None or world.permutation.shape == (num_walkers, num_actions)
        )
        if not shapes_fit or any(
            x.ndim != 2 or not x.is_cpu or x.dtype is not torch.int64 for x in tables
        ):
            raise ValueError(
                f"moves, observations, targets and permutation are "
                f"{[(tuple(x.shape), x.dtype, str(x.device)) for x in tables]}; they must be "
                "(S, A), (S, K), (N, P) and (N, A), int64, on the CPU"
            )
        for name, x, size in (
            ("moves", world.moves, self.num_cells), ("permutation", world.permutation, num_actions),
        ):  # fmt: skip
            if x is not None and ((x < 0) | (x >= size)).any():
                raise IndexError(f"{name} has entries that are not in 0..{size - 1}")
