"""Every operation on files of a folder, counted, with something done at one of them.

Python's own functions are replaced in a forked child: those of `os` that change files, `flock`,
and `open`, whose files are given a raw stream that counts its writes. An audit hook, which sees
what these replace, vouches for it that none was missed.
"""

import builtins
import fcntl
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# By name: where the path is among the arguments, or the descriptor.
BY_PATH = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "truncate", "link", "symlink")
BY_DESCRIPTOR = ("fsync", "ftruncate", "pwrite", "write", "posix_fallocate")
AUDITED = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


class Operation(NamedTuple):
    """One change to a file."""

    kind: str
    path: str  # within the folder

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


class Point(NamedTuple):
    """Where something happens: at the operation of this number."""

    number: int
    when: str  # "before", "torn" (half of the bytes of a write are written), "after"


class Operations:
    """Watches a folder from `install` on; for a forked child, as nothing is put back.

    Args:
        folder: What happens elsewhere is not counted.
        point: Where to act; None is nowhere.
        act: What to do there; told the operation.
    """

    def __init__(
        self,
        folder: Path,
        point: Point | None = None,
        act: Callable[[Operation], None] = lambda operation: None,
    ) -> None:
        self.folder = os.path.realpath(folder)
        self.point, self.act = point, act
        self.seen: list[Operation] = []
        self.missed: list[str] = []  # what the audit hook saw and nothing here counted
        self._depth = 0

    def install(self) -> None:
        """Begin to count."""
        for name in BY_PATH:
            setattr(os, name, self._by_path(name, getattr(os, name)))
        for name in BY_DESCRIPTOR:
            if hasattr(os, name):
                setattr(os, name, self._by_descriptor(name, getattr(os, name)))
        os.open = self._os_open(os.open)
        fcntl.flock = self._by_descriptor("flock", fcntl.flock)
        np.memmap.flush = self._flush(np.memmap.flush)  # type: ignore[method-assign]
        builtins.open = io.open = self._open(io.open)  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def around(
        self,
        kind: str,
        path: object,
        call: Callable[[], Any],
        torn: Callable[[], Any] | None = None,
    ) -> Any:
        """Do one operation, and act before, within or after it if that is the point."""
        inside = self._inside(path)
        if inside is None or self._depth > 0:
            return call()
        operation = Operation(kind, inside)
        number = len(self.seen)
        self.seen.append(operation)
        self._depth += 1
        try:
            if self.point == (number, "before"):
                self.act(operation)
            if self.point == (number, "torn") and torn is not None:
                torn()
                self.act(operation)
            result = call()
            if self.point == (number, "after"):
                self.act(operation)
        finally:
            self._depth -= 1
        return result

    def _inside(self, path: object) -> str | None:
        """A path within the folder; None if it lies elsewhere."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}").removesuffix(" (deleted)")
            except OSError:
                return None
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        place = os.path.abspath(os.fsdecode(path))
        if place != self.folder and not place.startswith(self.folder + os.sep):
            return None
        return place[len(self.folder) :] or os.sep

    def _by_path(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            return self.around(name, path, lambda: original(path, *arguments, **options))

        return call

    def _by_descriptor(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: Any, *arguments: Any) -> Any:
            torn = None
            if name in ("pwrite", "write") and len(arguments[0]) > 1:
                first, *rest = arguments
                torn = lambda: original(descriptor, first[: len(first) // 2], *rest)  # noqa: E731
            place = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            return self.around(name, place, lambda: original(descriptor, *arguments), torn)

        return call

    def _os_open(self, original: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if not flags & CHANGING:
                return original(path, flags, *arguments, **options)
            number: int = self.around(
                "open", path, lambda: original(path, flags, *arguments, **options)
            )
            return number

        return call

    def _flush(self, original: Callable[..., None]) -> Callable[..., None]:
        def flush(array: Any) -> None:
            # A part of an array flushes nothing but its own pages, and so it counts for nothing.
            self.around("msync", array.filename, lambda: original(array))

        return flush

    def _open(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
            errors: str | None = None, newline: str | None = None, closefd: bool = True,
            opener: Any = None,
        ) -> Any:  # fmt: skip
            changes = set(mode) & set("wax+")
            if not changes or self._inside(file) is None:
                return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
            plain = mode.replace("b", "").replace("t", "")
            raw = self.around("open", file, lambda: _Raw(self, file, plain, closefd, opener))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding, errors, newline)

        return call

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._depth > 0:
            return
        changes = event in AUDITED or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & CHANGING
        )
        if changes and (inside := self._inside(arguments[0])) is not None:
            self.missed.append(f"{event} {inside}")


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    def __init__(
        self, operations: Operations, file: Any, mode: str, closefd: bool, opener: Any
    ) -> None:
        super().__init__(file, mode, closefd, opener)
        self._operations = operations

    def write(self, content: Any) -> int:
        """Write, in half if that is the point."""
        view = memoryview(content).cast("B")
        torn = lambda: io.FileIO.write(self, view[: len(view) // 2])  # noqa: E731
        kind = "write" if len(view) > 1 else "byte"
        written: int = self._operations.around(
            kind, self.fileno(), lambda: io.FileIO.write(self, view), torn
        )
        return written

    def truncate(self, size: int | None = None) -> int:
        """Cut."""
        length: int = self._operations.around(
            "truncate", self.fileno(), lambda: io.FileIO.truncate(self, size)
        )
        return length
