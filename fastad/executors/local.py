"""Idempotent jobs on local processes, which never outlive the process that wants them."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from fastad.base.errors import UserError
from fastad.base.interrupt import STOP_SIGNALS

Job = Callable[..., Iterable[int]]


def run_jobs(
    function: Job,
    jobs: Sequence[tuple[Any, ...]],
    *,
    num_processes: int,
    poll_seconds: float = 0.3,
) -> Generator[list[int], None, None]:
    """Run `function(*job)` for every job, each on one of several processes with one thread.

    Workers are killed where they are when this generator is closed or interrupted, when an error
    ends it, and when this process is killed: a worker left behind would write the very files
    that a second attempt writes again.

    Args:
        function: A module-level function that does its work while the result is iterated over,
            which tells how far it is; safe to kill at any moment, and to run again.
        jobs: Arguments, which must pickle.
        num_processes: Workers, spawned.
        poll_seconds: How often to yield.

    Yields:
        How far each job is, the last that it told or 0; every `poll_seconds` and at the end.

    Raises:
        UserError: If a worker died; running the unfinished jobs again is safe.
    """
    context = multiprocessing.get_context("spawn")
    # Workers wait for this pipe to break, as it does when this process closes it or dies.
    lifeline, held_here = context.Pipe(duplex=False)
    far = context.RawArray(ctypes.c_longlong, len(jobs))
    executor = ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=_start_worker, initargs=(lifeline, far)
    )
    try:
        running = {executor.submit(_work, index, function, job) for index, job in enumerate(jobs)}
        while running:
            finished, running = wait(running, poll_seconds, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            yield list(far)
        executor.shutdown()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps for want of memory; what it committed is kept: run "
            "again with --resume, and with fewer workers"
        ) from error
    finally:
        held_here.close()
        executor.shutdown(cancel_futures=True)
        lifeline.close()


_far: "ctypes.Array[ctypes.c_longlong]"  # of a worker: how far each job is, for all to see


def _start_worker(lifeline: Connection, far: "ctypes.Array[ctypes.c_longlong]") -> None:
    global _far
    _far = far
    # Ctrl-C and a closing terminal reach the whole process group, a batch system's SIGTERM often
    # too; the parent decides what they mean, and ends the lifeline.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    with suppress(EOFError):
        lifeline.recv()
    os._exit(1)


def _work(index: int, function: Job, job: tuple[Any, ...]) -> None:
    for far in function(*job):
        _far[index] = far
