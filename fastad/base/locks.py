"""One writer per folder: a lock file that names its holder to whoever comes second.

The lock is the operating system's (`flock`) on a file inside the folder, so that it ends with the
process that holds it, however that ends; over NFS it holds between machines. A file system that
has no such locks gets a file that only one process can create, and a line that says what is lost.
"""

import errno
import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError, naming
from fastad.base.files import UNSUPPORTED, kind_of, read_bytes, say_once

LOCK_FILE = ".fastad-lock"
HELD_FILE = ".fastad-lock-held"  # exists while held, where the system has no locks
RIGHT_FILE = ".fastad-lock-right"  # held while an abandoned HELD_FILE is deleted
LOCK_FILES = (LOCK_FILE, HELD_FILE, RIGHT_FILE)
MAX_HOLDER_BYTES = 2**12
POLL = 0.05  # seconds
WORKER_PATIENCE = 5.0  # seconds in which a worker notices that its parent is gone


@contextmanager
def folder_lock(folder: Path, *, patience: float = 1.0) -> Iterator[None]:
    """Be the only writer of a folder within the block.

    The lock file stays behind, empty: deleting it would let two processes lock two files.

    Args:
        folder: Exists, and can be written to. Reading needs no lock.
        patience: Seconds to wait for a holder that may be ending just now.

    Raises:
        UserError: If another process holds the lock; it is named by host, number and time.
        OSError: If the folder cannot be written to.
    """
    deadline = time.monotonic() + patience
    while True:
        with ExitStack() as stack:
            if _try(folder, stack):
                yield
                return
        if time.monotonic() >= deadline:
            raise UserError(
                f"{folder} is being written by another process ({_holder(folder)}); wait for it "
                "or stop it first"
            )
        time.sleep(POLL)


def _try(folder: Path, stack: ExitStack) -> bool:
    """Take the lock, to be released by `stack`; False if somebody else has it."""
    file = folder / LOCK_FILE
    descriptor = _open(file)
    stack.callback(os.close, descriptor)
    try:
        with naming(file):
            is_ours = _flock(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.ENOLCK}:
            raise
        say_once(
            "its file system has no locks; a file stands in for them, so a killed process may "
            "leave it behind, and whoever deletes it must know that nobody writes",
            folder,
        )
        return _create_held(folder, stack)
    if is_ours:
        with naming(file):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _describe_self(), 0)
        stack.callback(os.ftruncate, descriptor, 0)
    return is_ours


def _open(file: Path) -> int:
    if file.is_symlink() or (file.exists() and not stat.S_ISREG(file.lstat().st_mode)):
        kind = kind_of(file.lstat().st_mode)
        raise UserError(f"{file}: is a {kind}, not a lock of fastad; delete it")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(file, flags, 0o666)


def _flock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOSYS, "no fcntl on this platform") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create_held(folder: Path, stack: ExitStack) -> bool:
    """The lock without locks: whoever creates the file has it, and deletes it."""
    file = folder / HELD_FILE
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        _remove_abandoned(file)
        return False
    stack.callback(file.unlink, missing_ok=True)
    with naming(file), os.fdopen(descriptor, "wb") as stream:
        stream.write(_describe_self())
    return True


def _remove_abandoned(file: Path) -> None:
    """Delete a held file if the process that made it, on this machine, runs no more.

    Of several processes that find it abandoned, one wins the right to delete it, and looks again
    once it has that right: else the file might be its rival's new one.
    """
    if not _is_abandoned(_read(file)):
        return
    right = file.with_name(RIGHT_FILE)
    try:
        os.close(os.open(right, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return
    try:
        if _is_abandoned(_read(file)):
            file.unlink()
    finally:
        right.unlink()


def _is_abandoned(holder: dict[str, Any]) -> bool:
    """Whether a holder lived where this process lives, and does not any more."""
    if holder.get("place") != _place() or type(holder.get("process")) is not int:
        return False
    process: int = holder["process"]
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return holder.get("began") != _began(process)


def _describe_self() -> bytes:
    process = os.getpid()
    holder = {
        "host": platform.node(),
        "process": process,
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "place": _place(),
        "began": _began(process),
    }
    return json.dumps(holder).encode()


def _place() -> list[str]:
    """Where process numbers mean what they mean here: this start of this machine, its container."""
    place = [platform.node()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists():
        place += [boot.read_text().strip(), os.readlink(namespace)]
    return place


def _began(process: int) -> str:
    """When a process began, in clock ticks; tells it from a later one of the same number."""
    file = Path(f"/proc/{process}/stat")
    # The name in parentheses may hold anything, the 22nd field is the 20th behind it.
    return file.read_text().rpartition(")")[2].split()[19] if file.exists() else ""


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as can be told."""
    held = folder / HELD_FILE
    found = _read(held if held.exists() else folder / LOCK_FILE)
    text = "it has not said which"
    if found:
        text = f"process {found.get('process')} on {found.get('host')}, since {found.get('since')}"
    return f"{text}; if it runs no more, delete {held}" if held.exists() else text


def _read(file: Path) -> dict[str, Any]:
    """What a holder wrote about itself; nothing if it has not yet, or has just left."""
    try:
        content = json.loads(read_bytes(file, fix="delete it", limit=MAX_HOLDER_BYTES))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
