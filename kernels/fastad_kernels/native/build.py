"""Compile the C++ kernels on the machine that will run them, once, and load them."""

import ctypes
import hashlib
import logging
import os
import platform
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
    "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
)  # fmt: skip
COMPILERS = ("g++", "clang++")
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

    Raises:
        NativeUnavailableError: If there is no compiler, or it fails.
    """
    compiler = _compiler()
    sources = sorted(SOURCES.iterdir())
    text = b"".join(source.read_bytes() for source in sources)
    # A home may be shared by machines with different processors and compilers.
    identity = (text, " ".join(FLAGS), compiler, _version(compiler), _processor())
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


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return path
    wanted = f"CXX={named}" if named else " or ".join(COMPILERS)
    raise NativeUnavailableError(
        f"the C++ kernels need a compiler, and {wanted} is not there; "
        "install one (Debian: apt install g++)"
    )


def _version(compiler: str) -> str:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    except OSError as error:
        raise NativeUnavailableError(f"{compiler} cannot be run: {error}") from error


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


def _compile(compiler: str, sources: list[Path], target: Path) -> None:
    """Compile into a file beside `target`, which then takes its place: others may do the same."""
    _LOGGER.info("compiling the C++ kernels for this machine, once; this takes about 10 s")
    descriptor, partial = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(descriptor)
    try:
        done = subprocess.run(
            [compiler, *FLAGS, *map(str, sources), "-o", partial], capture_output=True, text=True
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            reason = next((line for line in lines if "error" in line), lines[-1])
            raise NativeUnavailableError(f"{compiler} failed on the C++ kernels: {reason}")
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)
