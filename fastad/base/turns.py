"""A function that cannot be left before it returns, as an iterator that can."""

import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 0.2  # between turns, about: often enough for a bar, too seldom to be felt


class _AbandonedError(BaseException):
    """Ends the function where it is: nobody iterates any more. No `except Exception` stops it."""


class _Turns(Generic[T]):
    """Two threads of which one works at a time.

    Args:
        seconds: For which the function works before it hands over.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._until = seconds, 0.0
        self._ours, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._said: T
        self._error: BaseException | None = None
        self._is_over, self._is_abandoned = False, False

    def tell(self, said: T) -> None:
        """Of the function: go on, or let the iterator have its turn."""
        if not self._is_abandoned:
            if time.monotonic() < self._until:
                return
            self._said = said
            self._ours.release()
            self._theirs.acquire()
        if self._is_abandoned:
            raise _AbandonedError

    def work(self, function: Callable[[Callable[[T], None]], None]) -> None:
        """The other thread's: call the function when it is its turn."""
        self._theirs.acquire()
        try:
            if not self._is_abandoned:
                function(self.tell)
        except _AbandonedError:
            pass
        except BaseException as error:
            self._error = error
        self._is_over = True
        self._ours.release()

    def next(self) -> bool:
        """Let the function work; returns whether there is more to come."""
        self._until = time.monotonic() + self._seconds
        self._theirs.release()
        self._ours.acquire()
        if self._error is not None:
            raise self._error
        return not self._is_over

    def said(self) -> T:
        """What the function told last."""
        return self._said

    def abandon(self) -> None:
        """Let the function end where it is told something next."""
        self._is_abandoned = True
        self._theirs.release()


def by_turns(
    function: Callable[[Callable[[T], None]], None], *, seconds: float = SECONDS
) -> Generator[T, None, None]:
    """Call `function(tell)` and yield, every now and then, what it tells.

    It works in a thread of its own, and only while the iterator waits for it: nothing happens at
    once. Where the iterator is closed, or interrupted, it ends at its next `tell`.

    Args:
        function: Calls `tell` often, with how far it is.
        seconds: Between what is yielded; what is told meanwhile is passed over.

    Raises:
        BaseException: Whatever the function raises.
    """
    turns = _Turns[T](seconds)
    thread = threading.Thread(target=turns.work, args=(function,), daemon=True)
    thread.start()
    try:
        while turns.next():
            yield turns.said()
    finally:
        turns.abandon()
        thread.join()
