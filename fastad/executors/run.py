"""Running jobs to their end: the dead are run again, and how far all are is told."""

import logging
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from fastad.base.errors import UserError
from fastad.executors.base import Handle, Job, WorkerDiedError, Workers

_logger = logging.getLogger(__name__)


def run_jobs(
    workers: Workers,
    function: Job,
    jobs: Sequence[tuple[Any, ...]],
    *,
    names: Sequence[str],
    num_workers: int,
    retries: int = 0,
    poll_seconds: float = 0.3,
) -> Generator[list[int], None, None]:
    """Run `function(*job)` for every job.

    Whatever still runs when this ends, or is closed or interrupted, is cancelled.

    Args:
        workers: To be used for nothing else meanwhile.
        function: See `Job`.
        jobs: Arguments.
        names: Of the jobs, for messages.
        num_workers: Jobs that run, or wait for room, at once.
        retries: How often the job of a dead worker is run again.
        poll_seconds: How often to yield.

    Yields:
        How far each job is, the last that it told or 0; every `poll_seconds` and at the end.

    Raises:
        UserError: If workers died too often; running the unfinished jobs again is safe.
        BaseException: Whatever a job raises.
    """
    try:
        yield from _run(workers, function, jobs, names, num_workers, retries, poll_seconds)
    finally:
        workers.cancel()


def _run(
    workers: Workers,
    function: Job,
    jobs: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    num_workers: int,
    retries: int,
    poll_seconds: float,
) -> Generator[list[int], None, None]:
    waiting, running = deque(range(len(jobs))), dict[Handle, int]()
    far, deaths = [0] * len(jobs), [0] * len(jobs)
    while waiting or running:
        while waiting and len(running) < num_workers:
            index = waiting.popleft()
            running[workers.submit(function, jobs[index])] = index
        ended = workers.ended(running, poll_seconds)
        for handle, index in running.items():
            far[index] = workers.told(handle)
        for handle in ended:
            index = running.pop(handle)
            try:
                error = workers.outcome(handle)
            except WorkerDiedError as death:
                deaths[index] += 1
                if deaths[index] > retries:
                    raise UserError(
                        f"{names[index]}: {_times(deaths[index])} ({death}), perhaps for want of "
                        "memory; what is complete is kept: run again with --resume, and with fewer "
                        "workers, or more memory or time for each"
                    ) from death
                _logger.warning("%s: its worker died (%s); it is run again", names[index], death)
                far[index] = 0
                waiting.appendleft(index)
                continue
            if error is not None:
                raise error
        yield list(far)


def _times(deaths: int) -> str:
    return "a worker died" if deaths == 1 else f"{deaths} workers died"
