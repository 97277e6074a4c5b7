"""Watch every address that a Triton kernel touches, in the interpreter.

The interpreter runs one program after another on the memory of the process. So a kernel that
writes past its tensor overwrites something else and often passes its test, and a race between
programs always comes out the same way. This checker sees every unmasked address before it is used:

    with check_addresses() as report:
        kernel[grid](q, k, v, out)
    report.launches[0].traffic["k"].read.unique  # bytes

It raises on

- an access outside the tensors passed to the launch. Only the elements of a tensor count, not the
  gaps between the rows of a strided view;
- two programs that write one element, or one that writes what another reads: on a GPU they run in
  any order. Atomics are held to bounds only;
- one store that gives an element two different values;
- a program that reads what it stored itself, with no `tl.debug_barrier()` between: another thread
  may read it before it is there.

Races between the threads of one program in shared memory stay unseen; Triton's compiler places
those barriers. Accesses narrower than a tensor's elements count as whole elements.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle
from triton.tools.tensor_descriptor import TensorDescriptor

from fastad_kernels.testing.shadow import Memory, Traffic, count_bytes

# Where pointers and masks stand in the argument lists of Triton 3.6 to 3.9. All other loads and
# stores, those of tensor descriptors too, end up in the first two.
_ACCESSES = {
    "create_masked_load": (0, 1),
    "create_masked_store": (0, 2),
    "create_atomic_rmw": (1, 3),
    "create_atomic_cas": (0, None),
}
_PATCHED = (*_ACCESSES, "create_barrier", "set_grid_dim")
_PATCHED_EXECUTOR = ("_init_args_hst", "__call__")


class AddressError(RuntimeError):
    """An access that a GPU would punish; the message names program, tensor and offset."""


class OutOfBoundsError(AddressError):
    """An access outside the tensors of the launch."""


class RaceError(AddressError):
    """Two accesses of one element whose order a GPU does not guarantee."""


@dataclass
class Launch:
    """One launch.

    Attributes:
        kernel: Its name.
        grid: Programs along three axes.
        traffic: By parameter name; names of tensors that share a storage are joined by "+".
    """

    kernel: str
    grid: tuple[int, ...]
    traffic: dict[str, Traffic]

    @property
    def read_bytes(self) -> int:
        """Distinct bytes read from all tensors."""
        return sum(traffic.read.unique for traffic in self.traffic.values())

    @property
    def written_bytes(self) -> int:
        """Distinct bytes written to all tensors."""
        return sum(traffic.written.unique for traffic in self.traffic.values())


@dataclass
class AddressReport:
    """What the launches within `check_addresses` touched, in order."""

    launches: list[Launch] = field(default_factory=list)


@contextlib.contextmanager
def check_addresses() -> Iterator[AddressReport]:
    """Check all launches within; they must run in the interpreter.

    Yields:
        A report that fills up with every launch.

    Raises:
        OutOfBoundsError: On an access outside the tensors of the launch; it is not carried out.
        RaceError: On accesses whose order matters and is not guaranteed.
    """
    watch = _Watch(AddressReport())
    saved = [(InterpreterBuilder, name, getattr(InterpreterBuilder, name)) for name in _PATCHED]
    saved += [(GridExecutor, name, getattr(GridExecutor, name)) for name in _PATCHED_EXECUTOR]
    try:
        for owner, name, original in saved:
            setattr(owner, name, watch.wrap(name, original))
        yield watch.report
    finally:
        for owner, name, original in saved:
            setattr(owner, name, original)


class _Watch:
    """The state of one `check_addresses`: the launch that runs, and what it touched."""

    def __init__(self, report: AddressReport) -> None:
        self.report = report
        self.memories: list[Memory] = []
        self.grid: tuple[int, ...] = ()
        self.error: AddressError | None = None

    def wrap(self, name: str, original: Callable) -> Callable:
        """Put the check in front of a method of Triton's interpreter."""
        if name == "__call__":
            return lambda executor, *args, **kwargs: self.launch(original, executor, args, kwargs)
        if name == "_init_args_hst":
            return lambda executor, *args: self.register(executor, original(executor, *args))
        if name == "set_grid_dim":
            return lambda builder, *grid: self.begin(original, builder, grid)
        if name == "create_barrier":
            return lambda builder: self.see_barrier(original(builder))

        def access(builder: InterpreterBuilder, *args: Any, **kwargs: Any) -> Any:
            self.see(builder.grid_idx, name, args, kwargs)
            return original(builder, *args, **kwargs)

        return access

    def launch(self, original: Callable, executor: GridExecutor, args: tuple, kwargs: dict) -> None:
        """Run one launch and add it to the report."""
        self.memories, self.error = [], None
        try:
            original(executor, *args, **kwargs)
        except InterpreterError:
            # Triton wraps whatever a kernel raises, once per nested function.
            if self.error is not None:
                raise self.error from None
            raise
        traffic = {memory.name: memory.traffic for memory in self.memories}
        self.report.launches.append(Launch(executor.fn.__name__, self.grid, traffic))

    def begin(self, original: Callable, builder: InterpreterBuilder, grid: tuple[int, ...]) -> None:
        """Note the grid of a launch."""
        self.grid = grid
        original(builder, *grid)

    def register(self, executor: GridExecutor, host: tuple[list, dict]) -> tuple[list, dict]:
        """Note the tensors of a launch, where the interpreter has copied them to the host."""
        args, kwargs = host
        by_start: dict[int, list[tuple[str, torch.Tensor]]] = {}
        for name, value in [*zip(executor.arg_names, args, strict=False), *kwargs.items()]:
            for tensor in _tensors(value):
                by_start.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
        for start, views in by_start.items():
            if start == 0:
                continue  # an empty tensor
            memory = Memory(
                views[0][1].untyped_storage(), min(tensor.element_size() for _, tensor in views)
            )
            for name, tensor in views:
                memory.add(name, tensor)
            self.memories.append(memory)
        return host

    def see(self, program: tuple[int, ...], name: str, args: tuple, kwargs: dict) -> None:
        """Check one load, store or atomic before it is carried out."""
        pointer_at, mask_at = _ACCESSES[name]
        pointers, given = args[pointer_at], True
        if mask_at is not None:
            given = args[mask_at] if mask_at < len(args) else kwargs["mask"]
        if isinstance(given, TensorHandle):
            given = given.data
        addresses, mask = np.broadcast_arrays(pointers.data, np.asarray(given))
        addresses = addresses[mask].astype(np.int64)
        if not addresses.size:
            return
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        reads, writes = name != "create_masked_store", name != "create_masked_load"
        if name == "create_masked_store":
            values = np.broadcast_to(args[1].data, mask.shape)[mask]
            self.check_single_values(program, addresses, values)
        number = int(np.ravel_multi_index(program, self.grid))
        for memory, index in self.locate(program, addresses, size, writes):
            if reads != writes:
                self.check_order(program, number, memory, index, writes)
            if reads:
                count_bytes(memory.traffic.read, memory, index, memory.reader, number)
            if writes:
                count_bytes(memory.traffic.written, memory, index, memory.writer, number)

    def see_barrier(self, result: None) -> None:
        """What the program stored may be read from here on."""
        for memory in self.memories:
            memory.is_fresh[:] = False

    def locate(
        self, program: tuple[int, ...], addresses: np.ndarray, size: int, is_write: bool
    ) -> Iterator[tuple[Memory, np.ndarray]]:
        """Shadow indices of an access, memory by memory."""
        pending = addresses
        for memory in self.memories:
            index = memory.find(pending, size)
            found = index[:, 0] >= 0
            if found.any():
                yield memory, index[found].ravel()
                pending = pending[~found]
        if pending.size:
            verb = "writes" if is_write else "reads"
            self.fail(
                OutOfBoundsError(
                    f"program {program} {verb} out of bounds at {pending.size} of "
                    f"{addresses.size} addresses; the first is {self.describe(int(pending[0]))}"
                )
            )

    def check_single_values(
        self, program: tuple[int, ...], addresses: np.ndarray, values: np.ndarray
    ) -> None:
        """Refuse a store that gives one element two values."""
        order = np.argsort(addresses, kind="stable")
        addresses, values = addresses[order], np.ascontiguousarray(values[order])
        raw = values.view(np.uint8).reshape(len(values), -1)  # NaN equals NaN here
        differs = (addresses[1:] == addresses[:-1]) & (raw[1:] != raw[:-1]).any(axis=1)
        if differs.any():
            where = self.describe(int(addresses[1:][differs][0]))
            self.fail(RaceError(f"program {program} stores two values at once to {where}"))

    def check_order(
        self,
        program: tuple[int, ...],
        number: int,
        memory: Memory,
        index: np.ndarray,
        is_write: bool,
    ) -> None:
        """Refuse an access that a GPU may carry out before or after another, then note it."""
        writer, reader = memory.writer[index], memory.reader[index]
        if is_write:
            read_elsewhere = ((reader >= 0) & (reader != number)) | memory.has_several_readers[
                index
            ]
            conflicts = [
                ((writer >= 0) & (writer != number), "write/write", writer),
                (read_elsewhere, "read/write", reader),
            ]
            memory.is_fresh[index] = True
        else:
            conflicts = [
                ((writer >= 0) & (writer != number), "read/write", writer),
                ((writer == number) & memory.is_fresh[index], "read after write", writer),
            ]
            memory.has_several_readers[index] |= (reader >= 0) & (reader != number)
        for conflict, kind, other in conflicts:
            if conflict.any():
                at = int(np.argmax(conflict))
                others = tuple(int(x) for x in np.unravel_index(max(0, other[at]), self.grid))
                where = self.describe(memory.start + int(index[at]) * memory.itemsize)
                self.fail(
                    RaceError(
                        f"{kind} race between programs {others} and {program} on "
                        f"{int(conflict.sum())} elements; the first is {where}"
                    )
                )

    def describe(self, address: int) -> str:
        """Name an address by the nearest tensor that starts before it."""
        below = [memory for memory in self.memories if memory.start <= address]
        memory = max(below or self.memories, key=lambda memory: memory.start, default=None)
        if memory is None:
            return "of no tensor: the launch was given none"
        return (
            f"byte {address - memory.start} of the storage of {memory.name} "
            f"({memory.end - memory.start} bytes)"
        )

    def fail(self, error: AddressError) -> None:
        """Keep the error, which Triton is about to wrap, and raise it."""
        self.error = error
        raise error


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in one argument of a launch."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, TensorDescriptor):
        yield from _tensors(value.base)
    elif isinstance(value, torch.Tensor):
        yield value
    elif isinstance(getattr(value, "base", None), torch.Tensor):
        yield value.base  # Triton's TensorWrapper
