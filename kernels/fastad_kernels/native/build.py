"""Compile the C++ kernels on the machine that will run them, once, and load them."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).parent / "src"
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC",
    "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off",
)  # fmt: skip
DEFAULT_COMPILER = "g++"
# Each takes so many pointers, then the number of threads.
FUNCTIONS = {
    "fastad_attention_forward": 6,
    "fastad_attention_backward": 2,
    "fastad_decode_attention": 8,
    "fastad_decode_blocks": 3,
    "fastad_pack_panels": 3,
    "fastad_projection_forward": 5,
    "fastad_projection_backward": 6,
    "fastad_mlp_forward": 4,
    "fastad_mlp_backward": 6,
}

_LOGGER = logging.getLogger(__name__)


class NativeUnavailableError(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels, loaded; compiled first if this machine has not done so before.

    The compiler is $CXX, or g++; $CXXFLAGS are added to its arguments.

    Raises:
        NativeUnavailableError: If there is no compiler, or it fails.
    """
    try:
        return _library()
    except OSError as error:
        raise NativeUnavailableError(f"the C++ kernels cannot be compiled: {error}") from error


def _library() -> ctypes.CDLL:
    compiler = _compiler()
    sources = sorted(SOURCES.iterdir())
    text = b"".join(source.read_bytes() for source in sources)
    # A home may be shared by machines with different processors and compilers.
    identity = (text, " ".join(_flags()), compiler, _version(compiler), _processor())
    digest = hashlib.sha256("\n".join(map(str, identity)).encode()).hexdigest()[:16]
    target = _cache_folder() / f"kernels-{digest}.so"
    if not target.exists():
        _compile(compiler, [source for source in sources if source.suffix == ".cpp"], target)
    try:
        loaded = ctypes.CDLL(str(target))
    except OSError as error:
        raise NativeUnavailableError(f"{target} cannot be loaded: {error}") from error
    for name, num_pointers in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype = None
        function.argtypes = [*(ctypes.c_void_p,) * num_pointers, ctypes.c_int]
    return loaded


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """A C array of pointers; the tensors must outlive the call that reads them."""
    pointers = (None if x is None else x.data_ptr() for x in tensors)
    return (ctypes.c_void_p * len(tensors))(*pointers)


@torch.compiler.assume_constant_result
def why_unavailable() -> str | None:
    """Why the kernels cannot be used on this machine, or None if they can."""
    return _why_unavailable()


@cache
def _why_unavailable() -> str | None:
    try:
        library()
    except NativeUnavailableError as error:
        return str(error)
    return None


def _compiler() -> list[str]:
    named = os.environ.get("CXX")
    command = shlex.split(named) if named else [DEFAULT_COMPILER]
    if command and shutil.which(command[0]) is not None:
        return command
    wanted = f"CXX={named}" if named else DEFAULT_COMPILER
    raise NativeUnavailableError(
        f"the C++ kernels need a compiler, and {wanted} is not there; "
        "install one (Debian: apt install g++)"
    )


def _flags() -> list[str]:
    """Ours, then the user's."""
    return [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]


def _version(compiler: list[str]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("flags", "Features", "model", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def _cache_folder() -> Path:
    """Where compiled kernels are kept: the user's cache, or else a folder of this process."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "fastad"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # no home, or not ours to write
        pass
    return Path(tempfile.mkdtemp(prefix="fastad-"))


def _compile(compiler: list[str], sources: list[Path], target: Path) -> None:
    """Compile into a file beside `target`, which then takes its place: others may do the same."""
    _LOGGER.info("compiling the C++ kernels for this machine, once; this takes about 10 s")
    descriptor, partial = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(descriptor)
    try:
        done = subprocess.run(
            [*compiler, *_flags(), *map(str, sources), "-o", partial],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            reason = next((line for line in lines if "error" in line), lines[-1])
            raise NativeUnavailableError(f"{compiler[0]} failed on the C++ kernels: {reason}")
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)
