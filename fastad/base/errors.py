"""Errors that a user can put right: the field, the value and the fix in one line."""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

FEW = 12

FIXES = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "free some of your quota there, or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another place",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that is not read-only",
    errno.ENOTDIR: "a file stands where a folder is needed; move it, or choose another place",
    errno.EISDIR: "a folder stands where a file is needed; name a file",
    errno.EEXIST: "move away what is there, or choose another place",
    errno.ENOENT: "check the name, or make it first",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links go round in a circle; name the place itself",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "this machine has no more open files to give; stop other programs",
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or stop other programs",
    errno.ENOMEM: "ask for less at once, or use a machine with more memory",
    errno.EIO: "the device fails; see the system's log, and choose another place",
    errno.ESTALE: "mount that network file system again",
}
# What PyTorch and NumPy say, without a class of their own, when they get no memory.
NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "unable to allocate",
    "storage size calculation overflowed",
    "maximum allowed dimension exceeded",
    "array is too big",
)


class UserError(ValueError):
    """Something the user asked for cannot be done; the message names field, value and fix.

    Args:
        message: One line; names and contents in it may come from anywhere, see `printable`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckFailedError(RuntimeError):
    """Something ran to its end and was found wrong; exit code 1."""


def printable(text: str) -> str:
    """`text` on one line, with escapes for what would steer a terminal or cannot be printed.

    Names of files and contents of damaged files may hold escape sequences, marks that turn the
    direction of writing, or bytes that are no text.
    """
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else _escape(letter)
        for letter in text
    )


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def unknown(field: str, value: object, choices: Iterable[str]) -> UserError:
    """Build the error for a name that is not one of `choices`, with the nearest valid one.

    Args:
        field: What was being chosen, e.g. "env".
        value: What the user wrote.
        choices: Every valid name.
    """
    names = sorted(choices)
    near = get_close_matches(str(value), names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else ""
    # A long list would bury the likely answer.
    if not near or len(names) <= FEW:
        hint = f"{hint} choose one of: {', '.join(names)}".strip()
    return UserError(f"unknown {field} {str(value)!r}; {hint}")


def os_error(error: OSError, field: str = "") -> UserError:
    """What the operating system refused, as an error that the user can put right.

    Args:
        error: Its file's name, if it has one, is shown.
        field: The setting that led there, as "out=runs/x".
    """
    names = [name for name in (error.filename, error.filename2) if name is not None]
    where = " -> ".join(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    return UserError(": ".join(part for part in (field, where, os_reason(error)) if part))


def os_reason(error: OSError) -> str:
    """What the operating system refused, and the fix."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{reason}; {FIXES.get(error.errno or 0, 'see what stands there')}"


def memory_error(error: Exception) -> UserError | None:
    """The same for memory that was not to be had; None if that is not what `error` says."""
    text = str(error)
    if not isinstance(error, MemoryError) and not any(s in text.lower() for s in NO_MEMORY):
        return None
    reason = text.splitlines()[0] if text else "no memory left"
    return UserError(f"{reason}; ask for less at once, or use a machine with more memory")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of the operating system the name of the file that the block works on.

    Opening names a file by itself; writing to an open one does not.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
