"""Small files: replaced so that no crash can tear them, read with errors that name them.

A sealed JSON file ends with the digest of all that stands before, so that a single flipped bit
anywhere in it is noticed when it is read.
"""

import errno
import hashlib
import io
import json
import logging
import multiprocessing
import os
import reprlib
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastad.base.errors import UserError, naming, printable

MAX_JSON_BYTES = 2**26  # the learners of a shard of millions of histories
# What a file system answers that lacks a call; ENOTSUP and EOPNOTSUPP differ on some systems.
UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
DIGEST = "digest"  # the field of a sealed JSON file
_said: set[str] = set()


def read_json(file: Path, *, fix: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Parse a JSON object, and hold it to its digest if it is sealed.

    Args:
        file: A regular file.
        fix: Ends every error message: what the user can do.
        limit: Bytes; a longer file is refused unread.

    Returns:
        The object without its digest.

    Raises:
        UserError: If the file is damaged, is no object, or is no regular file.
        OSError: If it cannot be read.
    """
    content = read_bytes(file, fix=fix, limit=limit)
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); {fix}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: holds a {type(values).__name__}, not an object; {fix}")
    if DIGEST in values and not _is_intact(content, values.pop(DIGEST)):
        raise UserError(
            f"{file}: damaged, its content does not have the digest stored in it; {fix}"
        )
    return values


def is_sealed(file: Path) -> bool:
    """Whether a JSON object that can be read has a digest of its own, not of what it tells of."""
    return DIGEST in json.loads(file.read_bytes())


def write_json(file: Path, values: Mapping[str, Any], *, seal: bool = False) -> None:
    """Replace `file` atomically and durably: a crash leaves the old content or the new.

    Args:
        file: In a folder that has one writer at a time.
        values: A JSON object; NumPy's numbers and arrays are welcome, and paths.
        seal: End the file with its digest, which `read_json` checks.
    """
    text = _dump(values)
    if seal:
        assert values, "a sealed object holds something"
        assert DIGEST not in values, f"{DIGEST!r} is the seal's own field"
        body = text.removesuffix("\n}").encode()
        replace_durably(file, body + _seal(digest(body)))
    else:
        replace_durably(file, (text + "\n").encode())


def as_json(value: Any) -> Any:
    """`value` as it comes back from JSON: tuples as lists, NumPy numbers as plain ones."""
    return json.loads(json.dumps(value, default=_plain))  # without indents it is C


def digest(content: bytes) -> str:
    """SHA-256 of a small content; 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_digest(
    file: Path, *, fix: str, progress: Callable[[int], None] = lambda num_bytes: None
) -> str:
    """The SHA-256 of a file of any size, header and all.

    Args:
        file: A regular file.
        fix: Ends the error message.
        progress: Told of every few megabytes that were read.
    """
    total, buffer = hashlib.sha256(), memoryview(bytearray(2**22))
    with open_regular(file, fix=fix) as stream:
        while num_bytes := stream.readinto(buffer):
            total.update(buffer[:num_bytes])
            progress(num_bytes)
    return total.hexdigest()


def open_regular(file: Path, *, fix: str) -> io.BufferedReader:
    """Open a file for reading; what is no regular file is refused instead of waited for.

    Raises:
        UserError: For a symbolic link, a pipe, a device, a socket or a folder.
        OSError: If the file is missing or cannot be opened.
    """
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise UserError(f"{file}: is a {kind_of(mode)}, not a regular file; {fix}")
    # The flags hold even if somebody swaps the file now.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(file, flags | getattr(os, "O_BINARY", 0)), "rb")


def read_bytes(file: Path, *, fix: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        UserError: If it is longer, or no regular file.
        OSError: If it cannot be read.
    """
    with open_regular(file, fix=fix) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise UserError(f"{file}: {size:,} bytes long, at most {limit:,} are read; {fix}")
        return stream.read(size)  # not `limit`: as much memory would be taken at once


def read_stored(file: Path, size: object, content_digest: object, *, fix: str) -> bytes:
    """The content of a file that a manifest tells of.

    Args:
        file: To be read.
        size: Bytes that the manifest says it has; from anywhere.
        content_digest: That of its content; from anywhere.
        fix: Ends errors.

    Raises:
        UserError: If it is not there, or another than was stored.
    """
    wrong = f"{file} is missing or damaged"
    try:
        there = file.lstat().st_size
        if there != size:
            raise UserError(f"{wrong} ({there} bytes instead of {reprlib.repr(size)}); {fix}")
        content = read_bytes(file, fix=fix, limit=there)
    except FileNotFoundError as error:
        raise UserError(f"{wrong} ({error.strerror}); {fix}") from error
    if digest(content) != content_digest:
        raise UserError(f"{wrong} (not the content that was stored); {fix}")
    return content


def kind_of(mode: int) -> str:
    """What a file is, by the mode that `lstat` gives."""
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")


def temporary(file: Path) -> Path:
    """Where the next content of `file` is written; its name is known, so a torn one is ours."""
    return file.with_name(f"{file.name}.tmp")


def write_new(file: Path, content: bytes) -> None:
    """Write a file that does not exist, and flush it to the disk; its name in the folder is not.

    Raises:
        FileExistsError: If it does exist.
        OSError: If it cannot be written; a part of it may be left.
    """
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        sync(stream.fileno(), file)


def replace_durably(file: Path, content: bytes) -> None:
    """Write a sibling, flush it to the disk, and rename it over `file`.

    Args:
        file: In a folder that has one writer at a time.
        content: All of it.

    Raises:
        OSError: Naming a path; the old content is untouched then and no sibling is left.
    """
    sibling = temporary(file)
    # Never through a link that lies there: what it points to is not ours.
    sibling.unlink(missing_ok=True)
    try:
        with naming(file):
            write_new(sibling, content)
        sibling.replace(file)
    finally:
        sibling.unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut, where the platform can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync(descriptor, folder)
        finally:
            os.close(descriptor)


def sync(descriptor: int, path: Path) -> None:
    """Flush an open file or folder to the disk; where that is impossible, say so once."""
    try:
        with naming(path):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        say_once(
            "its file system does not flush to the disk on request; a killed process loses "
            "nothing, a power cut may",
            path,
        )


def say_once(text: str, path: Path) -> None:
    """Warn that something is not guaranteed, with the first path where it was noticed."""
    # A worker meets what its parent met.
    if text not in _said and multiprocessing.parent_process() is None:
        _said.add(text)
        logging.getLogger("fastad").warning("%s: %s", printable(str(path)), text)


def _is_intact(content: bytes, stored: object) -> bool:
    if not isinstance(stored, str) or not stored.isascii():
        return False
    seal = _seal(stored)
    return content.endswith(seal) and digest(content.removesuffix(seal)) == stored


def _seal(value: str) -> bytes:
    """How a sealed file ends."""
    return f',\n  "{DIGEST}": "{value}"\n}}\n'.encode()


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: object) -> object:
    """Numbers and arrays of NumPy, and paths, as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r} cannot be stored as JSON")
