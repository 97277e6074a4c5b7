"""NumPy files that may be damaged: nothing is allocated before their header fits their size."""

import ctypes
import errno
import io
import mmap
import os
import weakref
from io import BufferedRandom, BufferedReader
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fastad.base.errors import UserError, naming
from fastad.base.files import UNSUPPORTED, open_regular

NUMBERS = "biuf"  # kinds of dtypes; never objects, which would be pickles
CHUNK = 2**20  # bytes
# What NumPy raises on headers that are no Python literals, or none of a dictionary.
HEADER_ERRORS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)


class Header(NamedTuple):
    """What a .npy file says that it holds."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # of the data, in bytes
    size: int  # of the file, in bytes

    @property
    def needed(self) -> int:
        """Bytes that the file must have."""
        return self.offset + self.dtype.itemsize * prod(self.shape)


def load_array(file: Path, *, fix: str) -> np.ndarray:
    """Read a whole array of numbers, whose shape is not known beforehand.

    Args:
        file: Small: it is read into memory.
        fix: Ends every error message.

    Raises:
        UserError: If the file is damaged, or no regular one.
        OSError: If it is missing or cannot be read.
    """
    with open_regular(file, fix=fix) as stream:
        return _read_array(stream, os.fstat(stream.fileno()).st_size, file, fix)


def parse_array(content: bytes, where: str, *, fix: str) -> np.ndarray:
    """As `load_array`, of what such a file would hold; `where` begins the messages."""
    return _read_array(io.BytesIO(content), len(content), where, fix)


def map_array(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...], *, fix: str) -> np.ndarray:
    """Map an array into memory, read-only, once its header and its size are as they must be.

    Args:
        file: Keeps no descriptor open: a dataset may have thousands of columns.
        dtype: That it must have.
        shape: That it must have.
        fix: Ends every error message.

    Raises:
        UserError: If the file is damaged, or no regular one.
        OSError: If it is missing or cannot be mapped.
    """
    with open_regular(file, fix=fix) as stream:
        header = _read_header(stream, os.fstat(stream.fileno()).st_size, file, fix)
        if header.dtype != dtype:
            raise UserError(f"{file}: dtype is {header.dtype}, not {dtype}; {fix}")
        if header.shape != shape:
            raise UserError(f"{file}: shape is {header.shape}, not {shape}; {fix}")
        _check_size(header, file, fix)
        return _map(stream, header, file)


def create_array(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    """A new file of zeros, written through a map; a full disk is an error now, not a kill then.

    Raises:
        OSError: Naming the file, which may have been begun.
    """
    # A new file, never the one that a link of this name points to.
    file.unlink(missing_ok=True)
    with naming(file):
        array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        with file.open("r+b") as stream:
            _claim_blocks(stream, os.fstat(stream.fileno()).st_size)
    return array


def _claim_blocks(stream: BufferedRandom, size: int) -> None:
    try:
        if not hasattr(os, "posix_fallocate"):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        os.posix_fallocate(stream.fileno(), 0, size)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        # Where blocks cannot be claimed unwritten, what they hold is written: header and zeros.
        for start in range(0, size, CHUNK):
            stream.seek(start)
            content = stream.read(CHUNK)
            stream.seek(start)
            stream.write(content)


def _read_array(stream: BinaryIO, size: int, file: Path | str, fix: str) -> np.ndarray:
    header = _read_header(stream, size, file, fix)
    # PyTorch takes neither numbers of another byte order nor wider ones.
    is_plain = header.dtype.kind in NUMBERS and header.dtype.isnative and header.dtype.itemsize <= 8
    if not is_plain or min(header.shape, default=0) < 0:
        raise UserError(
            f"{file}: not a readable .npy file (dtype {header.dtype}, shape {header.shape}); {fix}"
        )
    _check_size(header, file, fix)
    return np.frombuffer(bytearray(stream.read()), header.dtype).reshape(header.shape)


def _read_header(stream: BinaryIO, size: int, file: Path | str, fix: str) -> Header:
    npy = np.lib.format
    try:
        is_old = npy.read_magic(stream) == (1, 0)
        read_header = npy.read_array_header_1_0 if is_old else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
    except HEADER_ERRORS as error:
        raise UserError(f"{file}: not a readable .npy file ({error}); {fix}") from error
    if is_fortran:
        raise UserError(f"{file}: shape is {shape} in Fortran order; {fix}")
    return Header(dtype, shape, stream.tell(), size)


def _check_size(header: Header, file: Path | str, fix: str) -> None:
    if header.size < header.needed:
        raise UserError(f"{file}: truncated to {header.size} of {header.needed} bytes; {fix}")
    if header.size > header.needed:
        raise UserError(f"{file}: {header.size} bytes instead of {header.needed}; {fix}")


class _Mapping:
    """A file's pages, as an array that NumPy takes over; given back when the last view is gone."""

    def __init__(self, address: int, header: Header) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": header.dtype.str,
            "shape": header.shape,
            "data": (address + header.offset, True),  # read-only
        }


def _map(stream: BufferedReader, header: Header, file: Path) -> np.ndarray:
    if os.name != "posix":
        return np.asarray(np.memmap(stream, header.dtype, "r", header.offset, header.shape))
    # Python's own mmap keeps a duplicate of the descriptor for as long as the pages are mapped.
    libc = _libc()
    address = libc.mmap(None, header.size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(file))
    mapping = _Mapping(address, header)
    # Not at the interpreter's end: a thread may still read then.
    weakref.finalize(mapping, libc.munmap, address, header.size).atexit = False
    return np.asarray(mapping)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc
