"""Jobs on processes of this machine, which never outlive the process that wants them."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from fastad.base.interrupt import STOP_SIGNALS
from fastad.executors.base import Executor, Handle, Job, WorkerDiedError, Workers
from fastad.executors.lease import Lease


@dataclass(frozen=True)
class Local(Executor):
    """Processes of this machine, spawned, with one thread each."""

    def check(self) -> None:
        """See `Executor.check`: there is always one."""

    @contextmanager
    def start(self, num_workers: int, lease: Lease, logs: Path) -> Iterator[Workers]:
        """See `Executor.start`.

        Workers are killed where they are when they are cancelled, and when this process is killed:
        one left behind would write the very files that a second attempt writes again.
        """
        with lifeline() as held:
            yield _Processes(held)


class Lifeline:
    """A pipe that workers wait for to break, as it does when this process cuts it or dies."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.end, self._held_here = self.context.Pipe(duplex=False)  # `end` is the workers'

    def cut(self) -> None:
        """Kill all workers."""
        self._held_here.close()


@contextmanager
def lifeline() -> Iterator[Lifeline]:
    """A lifeline for workers of the block, none of which outlives it."""
    held = Lifeline()
    try:
        yield held
    finally:
        held.cut()
        held.end.close()


def begin_worker(lifeline: Connection, num_threads: int = 1) -> None:
    """What a new worker process does first."""
    # Ctrl-C and a closing terminal reach the whole process group, a batch system's SIGTERM often
    # too; the parent decides what they mean, and ends the lifeline.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(num_threads)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


class _Slot(NamedTuple):
    """One process, for one job after another: if it dies, no other has to start anew."""

    pool: ProcessPoolExecutor
    far: Any  # a number that it shares with us


class _Processes:
    """See `Workers`; a process is spawned when a job comes and none is idle."""

    is_remote = False

    def __init__(self, held: Lifeline) -> None:
        self._held = held
        self._idle: list[_Slot] = []
        self._busy: dict[Handle, _Slot] = {}

    def submit(self, function: Job, arguments: tuple[Any, ...]) -> Handle:
        slot = self._idle.pop() if self._idle else self._spawn()
        slot.far.value = 0
        future = slot.pool.submit(_work, function, arguments)
        self._busy[future] = slot
        return future

    def ended(self, handles: Collection[Handle], seconds: float) -> Collection[Handle]:
        futures = cast(Collection[Future[None]], handles)
        return wait(futures, seconds, return_when=FIRST_COMPLETED).done

    def outcome(self, handle: Handle) -> BaseException | None:
        slot = self._busy.pop(handle)
        error = cast(Future[None], handle).exception()
        if isinstance(error, BrokenProcessPool):
            slot.pool.shutdown()
            raise WorkerDiedError("it was killed") from error
        self._idle.append(slot)
        return error

    def told(self, handle: Handle) -> int:
        return int(self._busy[handle].far.value)

    def cancel(self) -> None:
        if self._busy:
            self._held.cut()
        for slot in (*self._idle, *self._busy.values()):
            slot.pool.shutdown(cancel_futures=True)

    def _spawn(self) -> _Slot:
        context = self._held.context
        far = context.RawValue(ctypes.c_longlong)
        pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(self._held.end, far)
        )
        return _Slot(pool, far)


_far: "ctypes.c_longlong"  # of a worker: how far its job is


def _begin(lifeline: Connection, far: "ctypes.c_longlong") -> None:
    global _far
    _far = far
    begin_worker(lifeline)


def _end_with(lifeline: Connection) -> None:
    with suppress(EOFError):
        lifeline.recv()
    os._exit(1)


def _work(function: Job, arguments: tuple[Any, ...]) -> None:
    for far in function(*arguments):
        _far.value = far
