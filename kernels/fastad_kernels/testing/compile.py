"""Compile a Triton kernel for a GPU that is not there, and read what it costs.

Triton asks its driver which GPU is present, then compiles without touching it. So a driver object
that merely names a GPU is enough: `compile_for` puts one in place and calls `warmup` with the
arguments of a launch. The kernel is specialised as in a true launch (a pointer that is a multiple
of 16, an integer that is 1), which a hand-written signature gets wrong without a sign of it.

The result is a binary, so its resources are exact: `Resources` counts registers, spills and shared
memory, and works out how many blocks fit on a multiprocessor. Nothing here says how fast the kernel
runs; `sass` takes the binary's loops apart for that.

Triton caches what it compiles on disk (`TRITON_CACHE_DIR`). A kernel defined while
`TRITON_INTERPRET=1` was set cannot be compiled: use another process.
"""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.errors import TritonError
from triton.runtime import driver
from triton.runtime.interpreter import InterpretedFunction

from fastad_kernels.testing import sass
from fastad_kernels.testing.devices import DEVICES, Device, Occupancy

# What a kernel that cannot be compiled, launched or read may raise; memory that runs out, drivers
# and PyTorch's own compiler raise RuntimeErrors, sizes that nobody thought of the two after it.
# Whatever else comes is a mistake of the caller.
KERNEL_ERRORS = (
    TritonError, RuntimeError, LookupError, ArithmeticError, ValueError, AssertionError,
)  # fmt: skip

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


_INTERPRETED = (
    "{} was defined with TRITON_INTERPRET=1 set, so it cannot be compiled; use a process without it"
)


class OfflineDriver:
    """What Triton's compiler asks of a driver; it names a GPU and can launch nothing.

    Args:
        architecture: A key of `TARGETS`.
    """

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        """The GPU that is compiled for."""
        return TARGETS[self.architecture]

    def get_current_device(self) -> int:
        """A number of its own per architecture: kernels remember their binaries by device."""
        return 1_000_000 + list(TARGETS).index(self.architecture)

    def get_current_stream(self, device: int) -> int:
        """No stream."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Where the arguments of `compile_for` live."""
        return torch.device("cpu")

    def get_device_properties(self, device: int) -> dict[str, int]:
        """What kernels may look up to choose their tiles."""
        model = DEVICES[self.architecture]
        return {
            "max_shared_mem": model.max_shared_bytes,
            "multiprocessor_count": model.num_multiprocessors,
            "max_num_regs": model.registers,
            "warpSize": model.warp_size,
        }


@contextlib.contextmanager
def offline(architecture: str) -> Iterator[None]:
    """Within, Triton believes that a GPU of this architecture is present.

    Raises:
        ValueError: If the architecture is not a key of `TARGETS`.
    """
    if architecture not in TARGETS:
        raise ValueError(f"architecture={architecture!r} must be one of {', '.join(TARGETS)}")
    previous = driver._active
    driver.set_active(OfflineDriver(architecture))
    try:
        yield
    finally:
        driver._active = previous


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes of the GPU.

    Attributes:
        registers: Per thread; on AMD, vector registers including the accumulation registers.
        spills: Instructions that store a spilled register to memory or load it from there. On AMD
            a register may spill to a free lane or accumulation register instead, as its metadata
            count; those are no more than moves, and left out.
        stack_bytes: Per thread. Not 0 without spills only where an array is indexed dynamically.
        shared_bytes: Per block, static and dynamic.
        tensor_memory_columns: Per block, of 512; sm_100 alone has them.
        num_warps: Per block.
        num_instructions: In the whole kernel, as laid out, not as executed.
        matrix_operation: The widest tensor-core instruction in it; None if there is none.
        occupancy: Blocks that fit on one multiprocessor at a time, and what keeps more away.
    """

    registers: int
    spills: int
    stack_bytes: int
    shared_bytes: int
    tensor_memory_columns: int
    num_warps: int
    num_instructions: int
    matrix_operation: str | None
    occupancy: Occupancy


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel and its assembly.

    Attributes:
        architecture: A key of `TARGETS`.
        kernel: Triton's object: `asm` with all intermediate forms, `metadata`.
        options: Keyword arguments of the launch: constexprs, num_warps, ...
    """

    architecture: str
    kernel: Any
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the kernel."""
        return str(self.kernel.metadata.name)

    @property
    def device(self) -> Device:
        """Figures of the GPU compiled for."""
        return DEVICES[self.architecture]

    @cached_property
    def assembly(self) -> str:
        """SASS as nvdisasm prints it, or AMD's assembly."""
        if "amdgcn" in self.kernel.asm:
            return str(self.kernel.asm["amdgcn"])
        return _run_on_cubin(triton.knobs.nvidia.nvdisasm.path, "-c", self.kernel.asm["cubin"])

    @cached_property
    def resources(self) -> Resources:
        """Read from the binary."""
        if "amdgcn" in self.kernel.asm:
            return _amd_resources(self)
        return _nvidia_resources(self)


def compile_for(kernel: Any, args: Sequence[Any], architecture: str, **options: Any) -> Compiled:
    """Compile `kernel` as a launch with these arguments would.

    Args:
        kernel: A function decorated with `triton.jit`.
        args: The positional arguments of the launch. Tensors may be on the CPU or on "meta", where
            they take no memory; their contents are not read.
        architecture: A key of `TARGETS`.
        **options: Keyword arguments of the launch: constexprs, `num_warps`, `num_stages`, ...

    Returns:
        The binary for that GPU.

    Raises:
        ValueError: If the architecture is unknown.
        RuntimeError: If the kernel was defined for the interpreter.
    """
    if not isinstance(kernel, triton.JITFunction):
        raise RuntimeError(_INTERPRETED.format(kernel.__name__))
    with offline(architecture):
        compiled = kernel.warmup(*args, grid=(1,), **options)
    return Compiled(architecture, compiled, options)


def compile_launches(run: Callable[[], object], architecture: str) -> list[Compiled]:
    """Call `run` with every launch in it compiled instead of carried out.

    So the code that launches builds the arguments, chooses the tiles and allocates, as if a GPU of
    this architecture were there, and what is compiled is what would be launched.

    Args:
        run: Calls the code under test, with tensors on the CPU; what the kernels would have
            written holds anything.
        architecture: A key of `TARGETS`.

    Returns:
        One entry per launch, in order.

    Raises:
        ValueError: If the architecture is unknown.
        RuntimeError: If a kernel was defined for the interpreter.
    """
    found: list[Compiled] = []
    compile_only = triton.JITFunction.run

    def compile_instead(kernel: Any, *args: Any, warmup: bool, **options: Any) -> Any:
        compiled = compile_only(kernel, *args, warmup=True, **options)
        found.append(Compiled(architecture, compiled, options))
        return compiled

    def refuse(kernel: Any, *args: Any, **options: Any) -> Any:
        raise RuntimeError(_INTERPRETED.format(kernel.__name__))

    interpreted_run = InterpretedFunction.run
    triton.JITFunction.run, InterpretedFunction.run = compile_instead, refuse
    try:
        with offline(architecture):
            run()
    finally:
        triton.JITFunction.run, InterpretedFunction.run = compile_only, interpreted_run
    return found


def _run_on_cubin(tool: str, flag: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True)
    return run.stdout


def _nvidia_resources(compiled: Compiled) -> Resources:
    usage = _run_on_cubin(
        triton.knobs.nvidia.cuobjdump.path, "-res-usage", compiled.kernel.asm["cubin"]
    )
    table = {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", usage)}
    metadata = compiled.kernel.metadata
    operations = sass.operations(compiled.assembly)
    shared, columns = table["SHARED"] + metadata.shared, getattr(metadata, "tmem_size", 0) or 0
    return Resources(
        registers=table["REG"],
        spills=operations["STL"] + operations["LDL"],
        stack_bytes=table["STACK"],
        shared_bytes=shared,
        tensor_memory_columns=columns,
        num_warps=metadata.num_warps,
        num_instructions=operations.total(),
        matrix_operation=sass.matrix_operation(operations),
        occupancy=compiled.device.occupancy(
            registers=table["REG"],
            shared_bytes=shared,
            num_warps=metadata.num_warps,
            tensor_memory_columns=columns,
        ),
    )


def _amd_resources(compiled: Compiled) -> Resources:
    text, metadata = compiled.assembly, compiled.kernel.metadata

    def field(name: str) -> int:
        return int(re.findall(rf"\.{name}:\s+(\d+)", text)[0])

    operations = sass.operations(text)
    # The unified register file holds both kinds, and the count in the metadata is of both.
    registers = field("vgpr_count")
    shared = max(metadata.shared, field("group_segment_fixed_size"))
    return Resources(
        registers=registers,
        spills=sum(operations[name] for name in operations if name.startswith("scratch_")),
        stack_bytes=field("private_segment_fixed_size"),
        shared_bytes=shared,
        tensor_memory_columns=0,
        num_warps=metadata.num_warps,
        num_instructions=operations.total(),
        matrix_operation=sass.matrix_operation(operations),
        occupancy=compiled.device.occupancy(
            registers=registers, shared_bytes=shared, num_warps=metadata.num_warps
        ),
    )
