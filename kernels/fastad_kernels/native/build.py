"""Compile the C++ kernels on the machine that will run them, once, prove them, and load them."""

import ctypes
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fastad_kernels.native import compiler, store, trial
from fastad_kernels.native.compiler import NativeUnavailableError

# Each takes so many pointers, then the number of threads.
FUNCTIONS = {
    "fastad_attention_forward": 6,
    "fastad_attention_backward": 2,
    "fastad_decode_attention": 7,
    "fastad_decode_blocks": 3,
    "fastad_decode_steps": 7,
    "fastad_pack_panels": 3,
    "fastad_draw": 4,
    "fastad_normalise": 3,
    "fastad_normalise_and_draw": 5,
    "fastad_softmax": 4,
    "fastad_tell": 5,
    "fastad_walk": 3,
    "fastad_embed_forward": 4,
    "fastad_embed_backward": 3,
    "fastad_q_learn": 3,
    "fastad_q_scores": 5,
    "fastad_projection_forward": 5,
    "fastad_projection_backward": 6,
    "fastad_mlp_forward": 5,
    "fastad_mlp_backward": 7,
    "fastad_stacked_forward": 1,
    "fastad_stacked_backward": 3,
}

_LOGGER = logging.getLogger(__name__)
_adopted: Path | None = None


@dataclass(frozen=True)
class Built:
    """A library that passed its check, and where what is known of it is kept."""

    path: Path
    manifest_path: Path
    manifest: store.Manifest


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels, loaded; see `built`."""
    return load(_adopted or built().path)


@cache
def built() -> Built:
    """The kernels compiled for this machine: found, or compiled, checked and kept.

    The compiler is $CXX, or g++ or another usual one; $CXXFLAGS are added to its arguments. What is
    found is used without starting any process.

    Raises:
        NativeUnavailableError: If there is no compiler, it fails, or what it makes is wrong.
    """
    try:
        return _find_or_build()
    except OSError as error:
        raise NativeUnavailableError(f"the C++ kernels cannot be compiled: {error}") from error


def adopt(path: Path) -> None:
    """Make `library` the one in a file, as it is: for the process that puts it to the test."""
    global _adopted
    _adopted = path


def load(path: Path) -> ctypes.CDLL:
    """Load a library and declare its functions.

    Raises:
        NativeUnavailableError: If it cannot be loaded.
    """
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailableError(
            f"the C++ kernels cannot be loaded: {error}; if {path.parent} is mounted noexec, set "
            "XDG_CACHE_HOME to a folder that is not"
        ) from error
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


def _find_or_build() -> Built:
    if os.name != "posix":
        raise NativeUnavailableError("the C++ kernels are made for Linux and macOS")
    command = compiler.find_compiler()
    # A home may be shared by machines with different processors and compilers.
    purpose = _digest(compiler.describe_purpose())[:16]
    version = "*" if command is None else _digest(compiler.describe_version(command))[:8]
    trusted = [folder for folder in store.folders() if _is_trusted(folder)]
    for folder in trusted:
        found = _find(folder, f"kernels-{purpose}-{version}.json")
        if found is not None:
            return found
    command = compiler.require_compiler()
    name = f"kernels-{purpose}-{version}"
    for folder in trusted:
        try:
            store.make_folder(folder)
        except OSError as error:
            _LOGGER.info("compiled kernels cannot be kept in %s: %s", folder, error)
            continue
        with store.lock(folder / f"{name}.lock"):
            return _find(folder, f"{name}.json") or _build(folder, name, command)
    return _build(Path(tempfile.mkdtemp(prefix="fastad-")), name, command)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_trusted(folder: Path) -> bool:
    try:
        store.check_folder(folder)
    except OSError as error:
        _LOGGER.warning(
            "compiled kernels in %s are not used: %s; XDG_CACHE_HOME names another place",
            folder, error,
        )  # fmt: skip
        return False
    return True


def _find(folder: Path, pattern: str) -> Built | None:
    """The newest library whose manifest's name matches and whose bytes are those compiled.

    Raises:
        NativeUnavailableError: If it was compiled and found wrong: it would be so again.
    """
    for path in sorted(folder.glob(pattern), key=lambda p: p.lstat().st_mtime, reverse=True):
        try:
            manifest = store.read_manifest(path)
            if manifest is None:
                continue
            _refuse_wrong(manifest, path)
            content = store.read(folder / manifest.library)
        except OSError as error:
            _LOGGER.warning("compiled kernels are not used: %s", error)
            continue
        if store.digest(content) == manifest.sha256:
            return Built(folder / manifest.library, path, manifest)
        _LOGGER.warning(
            "%s is not what was compiled (cut off, or changed); it is made anew", manifest.library
        )
    return None


def _build(folder: Path, name: str, command: list[str]) -> Built:
    """Compile, try, and put in place; nothing untried ever lies where others would load it."""
    _LOGGER.info("compiling the C++ kernels for this machine, once; this takes up to a minute")
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as work:
        fresh = Path(work) / "kernels.so"
        line = compiler.compile_kernels(command, fresh)
        content = fresh.read_bytes()
        refused = trial.prove(fresh)
    digest = store.digest(content)
    manifest = store.Manifest(f"{name}-{digest[:16]}.so", digest, line, refused)
    path = folder / f"{name}.json"
    if not refused:
        store.write(folder / manifest.library, content)
    store.write_manifest(path, manifest)
    _refuse_wrong(manifest, path)
    return Built(folder / manifest.library, path, manifest)


def _refuse_wrong(manifest: store.Manifest, path: Path) -> None:
    if manifest.refused:
        raise NativeUnavailableError(
            f"the C++ kernels compute wrongly as compiled by `{manifest.command}`: "
            f"{manifest.refused}; leave out the flags that allow it, or delete {path} to try again"
        )
