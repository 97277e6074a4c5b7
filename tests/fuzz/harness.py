"""One fuzzed file, read under limits: it loads, or it is refused in one line; nothing else.

An input is a line of words, the file's path among the samples and "sealed" where every digest is
to fit it, and below it the file's content.
"""

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from unittest.mock import patch

from fastad.base import provenance
from fastad.base.errors import UserError, memory_error
from fastad.base.locks import LOCK_FILES
from tests.fuzz.mutations import PLANTED, change
from tests.fuzz.samples import make_samples, sealed
from tests.fuzz.targets import OUT, TARGETS, Target

MAX_BYTES, MAX_SECONDS = 2**28, 5  # that one file may take, when it is read
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where folders are quick
# Of CPython's audit table: whatever begins a program, calls home or unpickles.
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir",
    "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.", "subprocess.Popen",
    "socket.connect", "socket.bind", "pickle.find_class", "ctypes.dlopen", "urllib.Request",
)  # fmt: skip


# What a conversion may do in its output folder, and nowhere else.
WRITING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
NO_MEMORY = ("allocation failed", "malloc", "can't allocate")  # as HDF5 and Arrow put it
# Of HDF5, which finds that the file ends before it touches the room that it asked for.
UNTOUCHED = "on disk image buffer"


class BrokenPromiseError(AssertionError):
    """A file had something done that no file may have done."""


class Samples:
    """A folder of valid files, of which one at a time is replaced.

    Args:
        folder: Filled with samples.
        target: A name of `TARGETS`.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self.folder, self.target = folder, TARGETS[target]
        found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        self.contents = {name: (folder / name).read_bytes() for name in sorted(found)}
        self._sound = {hash(content) for content in self.contents.values()}
        self.names = [n for n in self.contents if any(fnmatch(n, p) for p in self.target.files)]

    def inputs(self) -> list[bytes]:
        """Every file of the target as it is, an input each."""
        return [join(name, True, self.contents[name]) for name in self.names]

    def run(self, data: bytes) -> bool:
        """Read an input; whether it was loaded.

        Raises:
            Exception: Whatever is no UserError.
        """
        name, is_sealed, content = split(data)
        if name not in self.names:
            return False
        changed = sealed(name, content, self.contents) if is_sealed else {name: content}
        try:
            for path, new in changed.items():
                (self.folder / path).write_bytes(new)
            # What is written tells the commit, and git is asked for it, whatever the file says.
            with patch.object(provenance, "_git", return_value=None), watched(self.folder / OUT):
                return self._read(name, content, is_sealed)
        finally:
            shutil.rmtree(self.folder / OUT, ignore_errors=True)
            for path in changed:
                (self.folder / path).write_bytes(self.contents[path])

    def _read(self, name: str, content: bytes, is_sealed: bool) -> bool:
        try:
            self.target.read(self.folder, name)
        except UserError as error:
            line = str(error)
            assert line.isprintable(), f"no one line to be shown: {line!r}"
            if _wants_memory(error):
                # Refused in one line only because there is a limit here: elsewhere it is taken.
                raise BrokenPromiseError(f"a file takes all memory: {line}") from error
            left = [path.name for path in (self.folder / OUT).rglob("*") if path.is_file()]
            assert set(left) <= {*LOCK_FILES}, f"a refused file leaves {left}"
            return False
        if not is_sealed and content != self.contents[name] and not name.endswith(".jsonl"):
            assert self.target.notices(self.folder), "a changed file that nobody notices"
        return True

    def mutate(self, data: bytes, rng: random.Random) -> bytes | None:
        """An input like this one, changed in its form; None where it has none any more."""
        name, is_sealed, content = split(data)
        if name not in self.names or rng.random() < 0.15:
            name = rng.choice(self.names)
            content = self.contents[name]
        if name.endswith(".hdf5") and hash(content) not in self._sound:
            content = self.contents[name]  # to change a damaged one may crash HDF5's library
        new = change(name, content, rng)
        if new is None:
            return None
        self._sound.add(hash(new))
        return join(name, is_sealed if rng.random() < 0.9 else not is_sealed, new)


def join(name: str, is_sealed: bool, content: bytes) -> bytes:
    """An input, from what it is of."""
    return f"{name}{' sealed' * is_sealed}\n".encode() + content


def split(data: bytes) -> tuple[str, bool, bytes]:
    """What an input is of: path, whether digests fit it, content."""
    head, _, content = data.partition(b"\n")
    name, _, word = head.decode("latin1").partition(" ")
    return name, word == "sealed", content


@contextmanager
def samples_of(target: str, place: Path | None = None) -> Iterator[Samples]:
    """Valid files in a folder that goes again, at a place, or as far as possible in memory."""
    with tempfile.TemporaryDirectory(dir=place or MEMORY, prefix="fastad-fuzz-") as scratch:
        make_samples(Path(scratch))
        yield Samples(Path(scratch), target)


@contextmanager
def limited(max_bytes: int = MAX_BYTES) -> Iterator[None]:
    """Within the block, this process gets only so much memory more, and writes no larger file."""
    before, size = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_FSIZE)
    status = Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + max_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, size[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def timed(seconds: int = MAX_SECONDS) -> Iterator[None]:
    """Within the block, so many seconds of a processor: a busy machine is no file's fault."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise BrokenPromiseError(f"a file takes longer than {seconds} s to be read")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _wants_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is about memory that was not to be had."""
    while error is not None:
        text = str(error).lower()
        no_memory = isinstance(error, Exception) and memory_error(error) is not None
        if no_memory or any(words in text for words in NO_MEMORY):
            return UNTOUCHED not in text
        error = error.__cause__ or error.__context__
    return False


class _Watch(NamedTuple):
    broken: list[str]
    out: str  # where files may be written


_watches: list[_Watch] = []  # an audit hook stays for good; while this is empty it looks away


@contextmanager
def watched(out: Path | None = None) -> Iterator[None]:
    """Within the block, nothing runs a program, unpickles, imports the planted or writes a file.

    Args:
        out: A folder, to which files may be written all the same.

    Raises:
        BrokenPromiseError: If anything did, also where the error was caught within.
    """
    if _judge not in _hooks:
        sys.addaudithook(_judge)
        _hooks.append(_judge)
    watch = _Watch([], str(out or ""))
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.pop()
        if watch.broken:
            raise BrokenPromiseError(watch.broken[0])


_hooks: list[object] = []


def _judge(event: str, arguments: tuple[object, ...]) -> None:
    if not _watches:
        return
    deed, out = "", _watches[-1].out
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and str(path) != os.devnull and not _lies_in(out, path):
            deed = f"a file has {path} written"
        if str(path).endswith(("/etc/passwd", "outside", "outside.hdf5")):
            deed = f"a file has {path} read"
    elif event == "import" and str(arguments[0]).startswith(PLANTED):
        deed = f"a file has {arguments[0]} imported"
    elif event in WRITING and all(_lies_in(out, path) for path in arguments if path != -1):
        return
    elif event.startswith(FORBIDDEN) and arguments != (None,):  # dlopen(None): this very program
        deed = f"a file causes {event}{arguments}"
    if deed:
        _watches[-1].broken.append(deed)
        raise BrokenPromiseError(deed)


def _lies_in(out: str, path: object) -> bool:
    """Whether something an audit hook is told of, a mode of a folder or a path, may be written."""
    if not isinstance(path, str | bytes | Path):
        return isinstance(path, int)
    whole = os.path.abspath(os.fsdecode(path))
    return bool(out) and (whole == out or whole.startswith(out + os.sep))


__all__ = ["TARGETS", "BrokenPromiseError", "Samples", "Target", "limited", "samples_of", "timed"]
