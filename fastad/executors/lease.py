"""The right to work for somebody who may die on another machine: a file that has to stay fresh.

Local workers die with their parent. Remote ones do not learn of its death, so they watch a file in
the folder that they share with it. They stop within moments once it holds another token or is gone,
as it does when somebody else takes the folder over, and a while after it has ceased to change.
Clocks are never compared: each worker counts its own seconds since it last saw a change.
"""

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastad.base.errors import UserError
from fastad.base.files import replace_durably

LEASE_FILE = ".fastad-lease"
BEAT = 1.0  # seconds between changes
LOOK = 0.5  # seconds between a worker's looks
PATIENCE = 60.0  # seconds without a change after which the holder is taken for dead
ARRIVAL = 10.0  # seconds that a network file system may take to show a file that was just made


@dataclass(frozen=True)
class Lease:
    """What a worker is given.

    Attributes:
        file: Absolute; in a folder that all hosts share.
        token: Nobody else's.
        patience: Seconds.
    """

    file: Path
    token: str
    patience: float = PATIENCE

    @classmethod
    def of(cls, folder: Path) -> "Lease":
        """A new one for work in a folder, which need not exist yet."""
        return cls(folder.absolute() / LEASE_FILE, secrets.token_hex(16), PATIENCE)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Grant it within the block. To be called by whoever holds the lock of the folder."""
        replace_durably(self.file, self._content(0))
        try:
            with _beside(self._beat):
                yield
        finally:
            with suppress(OSError):  # it ends by itself, and what the block raised counts
                if self._seen() is not None:
                    revoke(self.file.parent)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """For a worker: end this process, wherever it is, when the lease ends within the block.

        Raises:
            UserError: If there is no such lease to begin with.
        """
        self._await()
        with _beside(self._watch):
            yield

    def _beat(self, stop: threading.Event) -> None:
        beats = 0
        while not stop.wait(BEAT):
            beats += 1
            # In place: whoever opens it on another host then sees the change at once. A file
            # system that fails for a moment is forgiven by the workers, too. Whoever takes the
            # folder over puts another file in its place, so one that is open is this lease's
            # still, or was never.
            with suppress(OSError), self.file.open("r+b", buffering=0) as stream:
                if not self._owns(stream.read()):
                    continue
                stream.seek(0)
                stream.write(self._content(beats))
                os.fsync(stream.fileno())

    def _await(self) -> None:
        deadline = time.monotonic() + ARRIVAL
        while self._seen() is None:
            if time.monotonic() >= deadline or self.file.exists():
                host = platform.node()
                raise UserError(
                    f"{self.file.parent}: the worker on {host} does not find there what it is to "
                    "work for; use a folder that all hosts share, under the same name"
                )
            time.sleep(LOOK)

    def _watch(self, stop: threading.Event) -> None:
        last, since = self._seen(), time.monotonic()
        while not stop.wait(LOOK):
            try:
                seen = self._seen()
            except OSError:  # a network that fails for a moment says nothing
                seen = last
            if seen is None:
                os._exit(1)
            if seen != last:
                last, since = seen, time.monotonic()
            elif time.monotonic() - since > self.patience:
                os._exit(1)

    def _seen(self) -> bytes | None:
        """The content, as long as it is this lease's."""
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return None
        return content if self._owns(content) else None

    def _owns(self, content: bytes) -> bool:
        return content.startswith(self.token.encode())

    def _content(self, beats: int) -> bytes:
        return f"{self.token} {beats:020d}\n".encode()


@contextmanager
def _beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have a thread do `work`, until its event is set, for as long as the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def revoke(folder: Path) -> None:
    """End the lease on a folder, whoever's it is; to be called by who holds the folder's lock."""
    (folder / LEASE_FILE).unlink(missing_ok=True)
