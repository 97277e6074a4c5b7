"""Processes of this machine that go on side by side, and tell what comes of it as they go."""

import pickle
from collections.abc import Callable, Generator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from fastad.base.errors import UserError
from fastad.executors.local import begin_worker, lifeline
from fastad.executors.remote import portable

# A module-level function, which tells what comes of its work; both must pickle.
Teller = Callable[..., None]


def run_abreast(
    function: Teller, jobs: Sequence[tuple[Any, ...]], *, num_threads: int = 1
) -> Generator[list[Any], None, None]:
    """Run `function(tell, *job)` for all jobs at once, each in a process of its own.

    None runs far ahead of what is taken here. They are killed where they are when this generator
    is closed or interrupted, and when this process is killed.

    Args:
        function: Calls `tell` as often as all others.
        jobs: Arguments.
        num_threads: Of PyTorch in each process.

    Yields:
        What each told first, then what each told next.

    Raises:
        UserError: If a process died.
        BaseException: Whatever a job raises.
    """
    with lifeline() as held:
        pipes, processes = [], []
        try:
            for job in jobs:
                ours, theirs = held.context.Pipe(duplex=False)
                arguments = (held.end, theirs, num_threads, function, job)
                process = held.context.Process(target=_work, args=arguments)
                process.start()
                theirs.close()  # so that their death ends it
                pipes.append(ours)
                processes.append(process)
            while True:
                told = [_receive(pipe) for pipe in pipes]
                if any(value is _OVER for value in told):
                    break
                yield told
            for process in processes:
                process.join()
        finally:
            held.cut()
            for process in processes:
                process.join()


_OVER = object()


def _receive(pipe: Connection) -> Any:
    try:
        kind, value = pickle.loads(pipe.recv_bytes())
    except (EOFError, ConnectionResetError) as error:
        raise UserError(
            "a worker process died, perhaps for want of memory; start again with fewer workers"
        ) from error
    if kind == "error":
        raise value
    return _OVER if kind == "over" else value


def _work(
    lifeline: Connection,
    pipe: Connection,
    num_threads: int,
    function: Teller,
    job: tuple[Any, ...],
) -> None:
    begin_worker(lifeline, num_threads)

    def send(kind: str, value: Any = None) -> None:
        # Not `Connection.send`: it lends tensors, whose memory would be gone with this process.
        pipe.send_bytes(pickle.dumps((kind, value)))

    try:
        function(partial(send, "told"), *job)
        send("over")
    except Exception as error:  # whatever it is, it is raised where the work is wanted
        send("error", portable(error))
