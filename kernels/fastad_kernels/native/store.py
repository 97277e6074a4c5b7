"""Where compiled kernels are kept: which folders and files are trusted, and how they are written.

A library is code that will run with the user's rights, as root's if root trains. So nothing is
loaded that anybody else could have put there.
"""

import errno
import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Left out where a file system cannot do it: locks on some network mounts, syncing of folders.
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP}
LOCK_SECONDS = 300.0

_LOGGER = logging.getLogger(__name__)


class UntrustedError(OSError):
    """A file or folder that others may have made or changed; the message says why."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a compiled library; JSON beside it.

    Attributes:
        library: Its file name; holds the digest, so that a library and its manifest belong together
            whichever process wrote last.
        sha256: Of its bytes.
        command: What compiled it.
        refused: Why it is wrong and must not be used; empty where the self check passed.
        ratios: How many times as fast as PyTorch's operations, by case ("attention 16"), by where
            that was measured ("torch 2.13.0, 2 threads").
    """

    library: str
    sha256: str
    command: str
    refused: str = ""
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)


def folders() -> list[Path]:
    """Where to look for compiled kernels, in order: the user's cache, a private folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    private = Path(tempfile.gettempdir()) / f"fastad-{os.geteuid()}"
    try:
        return [Path(base).expanduser() / "fastad", private]
    except RuntimeError:  # no home
        return [private]


def check_folder(folder: Path) -> None:
    """Refuse a folder in which others can put files; one that is not there yet is no danger.

    Raises:
        UntrustedError: If it is another user's, or others can write to it.
        OSError: If it cannot be looked at.
    """
    try:
        info = folder.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        raise UntrustedError(f"{folder} is not a folder")
    _check_owner(folder, info)


def read(path: Path) -> bytes:
    """The bytes of a file that nobody else can have written.

    Raises:
        UntrustedError: If it is another user's, others can write to it, or it is no plain file.
        OSError: If it cannot be read.
    """
    # A link would lead out of the folder that was checked; a FIFO would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise UntrustedError(f"{path} is not a plain file")
        _check_owner(path, info)
        return file.read()


def _check_owner(path: Path, info: os.stat_result) -> None:
    if info.st_uid not in (os.geteuid(), 0):
        raise UntrustedError(f"{path} belongs to another user (uid {info.st_uid})")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedError(f"others can write to {path} (chmod go-w puts it right)")


def make_folder(folder: Path) -> None:
    """Create a folder for compiled kernels that nobody else can write to.

    Raises:
        OSError: If it cannot be made, is not to be trusted, or cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In a folder for everybody's temporary files, nobody else looks in.
    private = folder.parent == Path(tempfile.gettempdir())
    folder.mkdir(mode=0o700 if private else 0o755, exist_ok=True)
    if private and folder.is_symlink():
        raise UntrustedError(f"{folder} is a link; remove it")
    check_folder(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass


def write(path: Path, content: bytes) -> None:
    """Put a whole file in place, or none, readable by whom the umask allows."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(part, flags, 0o644), "wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _sync(folder)
    finally:
        os.close(folder)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file while compiling or measuring: others wait, and then find the result.

    Without it the same work is done twice and the last one wins, which is no harm: so where locks
    do not work, or whoever holds one has hung, we go on.
    """
    import fcntl  # not on Windows, where this module can be imported

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        gives_up = time.monotonic() + LOCK_SECONDS
        waited = False
        while time.monotonic() < gives_up:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    _LOGGER.info("waiting for another process that compiles the C++ kernels")
                waited = True
                time.sleep(0.1)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                break
        yield
    finally:
        os.close(descriptor)


def read_manifest(path: Path) -> Manifest | None:
    """A manifest, or None where there is none or it is damaged.

    Raises:
        UntrustedError: If others may have written it.
    """
    try:
        manifest = Manifest(**json.loads(read(path)))
        texts = manifest.library, manifest.sha256, manifest.command, manifest.refused
        if not all(isinstance(text, str) for text in texts) or not _are_ratios(manifest.ratios):
            raise TypeError("its values are of other types")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        _LOGGER.warning("%s is damaged and made anew: %s", path, error)
        return None
    return manifest


def _are_ratios(value: object) -> bool:
    """Whether it is numbers by case by where they were measured."""
    return isinstance(value, dict) and all(
        isinstance(ratios, dict) and all(isinstance(ratio, float) for ratio in ratios.values())
        for ratios in value.values()
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Put it in place; see `write`."""
    write(path, (json.dumps(asdict(manifest), indent=1) + "\n").encode())


def digest(content: bytes) -> str:
    """SHA-256, as a manifest holds it."""
    return hashlib.sha256(content).hexdigest()
