"""Ctrl-C, SIGTERM and SIGHUP: they stop a command between two pieces of work, never within one."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# `timeout`, and a shell whose terminal closes, deliver one request twice within moments.
ONE_REQUEST = 0.2  # seconds


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop; whatever saves on Ctrl-C saves on this too.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Requests:
    """Raises at the first request to stop, or remembers it; kills the process at the second.

    Args:
        kills: Whether the second request kills; else it raises without waiting.
    """

    def __init__(self, *, kills: bool) -> None:
        self.kills, self.is_held = kills, False
        self.pending: int | None = None
        self.first: int | None = None  # the number of the first request
        self._asked_at: float | None = None

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within a block that holds requests back, one in which they raise at once."""
        self.is_held = False
        try:
            if self.pending is not None:
                number, self.pending = self.pending, None
                raise interruption(number)
            yield
        finally:
            self.is_held = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note of a request, as `signal.signal` has it."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at, self.first = now, number
            if self.is_held:
                self.pending = number
            else:
                raise interruption(number)
        elif now - self._asked_at > ONE_REQUEST:
            if not self.kills:
                raise interruption(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn every signal that asks to stop into an exception, for the length of a command.

    The first raises KeyboardInterrupt or `Stopped`, the second kills at once. Signals that were
    ignored stay so: `nohup` and a shell's `&` mean it.
    """
    with _installed(STOP_SIGNALS, kills=True) as requests:
        try:
            yield
        except KeyboardInterrupt as stop:
            # A library that waits in C, as Ray does, raises one of its own instead of ours.
            if isinstance(stop, Stopped) or requests.first in (None, signal.SIGINT):
                raise
            raise Stopped(requests.first) from stop


@contextmanager
def deferred_interrupt() -> Iterator[Requests | None]:
    """Hold back a request to stop until the block is done; the second is not held back.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Yields:
        Who holds it back, for those that look whether there is one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    handler = next(
        (h for h in map(signal.getsignal, STOP_SIGNALS) if isinstance(h, Requests)), None
    )
    if handler is None:
        # Not in a command: somebody's script or notebook, which the second Ctrl-C must not kill.
        with _installed((signal.SIGINT,), kills=False) as handler, _held(handler):
            yield handler
        return
    with _held(handler):
        yield handler


@contextmanager
def _held(handler: Requests) -> Iterator[None]:
    handler.is_held = True
    try:
        yield
    except OSError as error:
        # A terminal that closes takes the output along, which has no name: no file has failed.
        if handler.pending is None or error.filename is not None:
            raise
    finally:
        handler.is_held = False
    if handler.pending is not None:
        raise interruption(handler.pending)


@contextmanager
def _installed(numbers: tuple[int, ...], *, kills: bool) -> Iterator[Requests]:
    handler = Requests(kills=kills)
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in numbers}
    replaced = {n: old for n, old in previous.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in replaced:
            signal.signal(number, handler)
        yield handler
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)


def interruption(number: int) -> KeyboardInterrupt:
    """What a signal of this number raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)
