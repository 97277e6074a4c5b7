"""Episodes in worlds that are tables, by one C++ kernel a step instead of 6 to 15 operations."""

import ctypes
from collections.abc import Callable
from ctypes import c_int64, c_void_p
from threading import Lock

import torch
from torch import Tensor

from fastad_kernels.native.build import library
from fastad_kernels.native.slots import Slots
from fastad_kernels.walks import Walked, Walks, World, make_walks


class _Walks(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("moves", "observations", "targets", "permutation")),
        *((name, c_void_p) for name in ("cell", "time", "collected")),
        *((name, c_int64) for name in ("num_walkers", "num_cells", "num_actions")),
        *((name, c_int64) for name in ("num_features", "num_phases", "episode_length")),
        *((name, c_void_p) for name in ("seen", "end", "reward", "truncated", "terminated")),
        *((name, c_int64) for name in ("num_ended", "wrong")),
    ]


class NativeWalks(Walks):
    """See `Walks`; on the CPU."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._check(world)
        self._tables = [x.contiguous() for x in world[:3]]  # alive as long as their addresses
        self._permutation = None if world.permutation is None else world.permutation.contiguous()
        moves, observations, targets = self._tables
        num_walkers, num_features = len(targets), observations.shape[1]
        self._shape = self._cell.shape
        self._struct = _Walks(
            moves.data_ptr(), observations.data_ptr(), targets.data_ptr(),
            None if self._permutation is None else self._permutation.data_ptr(),
            self._cell.data_ptr(), self._time.data_ptr(), self._collected.data_ptr(),
            num_walkers, self.num_cells, self.num_actions, num_features, self.num_phases,
            world.episode_length,
        )  # fmt: skip
        self._pointer = ctypes.byref(self._struct)
        self._lock = Lock()  # a call lets other threads run, who would fill the same memory
        shape = self._shape
        kinds = [
            ((num_walkers, num_features), torch.int64), (shape, torch.int64),
            (shape, torch.float32), (shape, torch.bool), (shape, torch.bool),
        ]  # fmt: skip
        # In the struct's order; the last one is there where something terminates.
        self._slots = Slots(*kinds[: 4 + world.terminates])
        # What the latest step led to: where it ended, in which cells; and, if an episode ended,
        # where the next one begins.
        self._end: tuple[Tensor | None, Tensor] = None, self._cell
        self._first: Tensor | None = None

    def __reduce__(self) -> tuple[Callable[..., Walks], tuple[object, ...]]:
        """A copy has addresses of its own, and may be made where there are no kernels."""
        return _copy, (self.world, self.state)

    def reset(self, start: Tensor) -> Tensor:
        """See `Walks.reset`."""
        observation = super().reset(start)
        self._first = None
        return observation

    def cell(self, observation: Tensor) -> Tensor | None:
        """See `Walks.cell`."""
        end, cell = self._end
        if observation is end:
            return cell
        return self._cell.clone() if observation is self._first else None

    def step(self, action: Tensor, start: Tensor) -> Walked:
        """See `Walks.step`."""
        if not (self._fits(action) and self._fits(start)):
            action, start = self._cast(action), self._cast(start)
        action, start = action.contiguous(), start.contiguous()
        with self._lock:
            return self._walk(action, start)

    def _walk(self, action: Tensor, start: Tensor) -> Walked:
        struct = self._struct
        (end, cell, reward, truncated, *terminated), addresses = self._slots.take()
        struct.seen, struct.end, struct.reward, struct.truncated, *rest = addresses
        struct.terminated = rest[0] if rest else None
        library().fastad_walk(self._pointer, action.data_ptr(), start.data_ptr(), 1)
        self._end, self._first = (end, cell), None
        if struct.wrong:
            raise IndexError(
                f"{struct.wrong} of {struct.num_walkers} walkers have an action not in "
                f"0..{self.num_actions - 1}, or begin in a cell not in 0..{self.num_cells - 1}"
            )
        first = end
        if struct.num_ended:
            first = self._first = self.world.observations.index_select(0, self._cell)
        return Walked(first, reward, terminated[0] if rest else self._never, truncated, end)

    def _fits(self, x: Tensor) -> bool:
        is_read = isinstance(x, Tensor) and x.dtype is torch.int64 and x.is_cpu
        return is_read and x.shape == self._shape

    def _cast(self, x: Tensor) -> Tensor:
        """Of smaller integers, or one for all, as PyTorch does; refuses what would be misread."""
        cast = x = torch.as_tensor(x)
        if not x.is_floating_point() and not x.is_complex():
            cast = x.long()
        if x.numel() == 1 and x.ndim < 2:
            cast = cast.expand(self._shape)
        if not self._fits(cast):
            raise ValueError(
                f"actions or starts are {x.dtype} of shape {tuple(x.shape)} on {x.device}; they "
                f"must be integers of shape {tuple(self._shape)} on the CPU"
            )
        return cast

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
        if self.num_phases > 1 and (world.targets[:, -1] >= 0).any():
            raise ValueError("the last of several targets must be -1: nothing is left to be paid")
        for name, x, size in (
            ("moves", world.moves, self.num_cells), ("permutation", world.permutation, num_actions),
        ):  # fmt: skip
            if x is not None and ((x < 0) | (x >= size)).any():
                raise IndexError(f"{name} has entries that are not in 0..{size - 1}")


def _copy(world: World, state: tuple[Tensor, Tensor, Tensor]) -> Walks:
    walks = make_walks(world, impl="auto")
    walks.go_on(state)
    return walks
