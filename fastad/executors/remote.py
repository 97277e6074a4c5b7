"""What a worker does that is no child of whoever wants its work."""

import pickle
import traceback
from typing import Any

from fastad.base.device import one_thread
from fastad.base.errors import UserError
from fastad.executors.base import Job
from fastad.executors.lease import Lease


def work(function: Job, arguments: tuple[Any, ...], lease: Lease) -> BaseException | None:
    """Run a job to its end, for as long as somebody wants it, with one thread.

    Returns:
        The error that it ended with: engines wrap what is raised in words of their own.
    """
    try:
        with lease.watched(), one_thread():
            for _ in function(*arguments):
                pass
    except Exception as error:  # whatever it is, it is raised where the work is wanted
        return portable(error)
    return None


def cannot_begin(trace: str) -> UserError:
    """What to do where a worker fails before, or beside, its work: it has other software."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return UserError(
        f"a worker cannot do its work: {lines[-1] if lines else 'it does not say why'}; install "
        "there what is installed here, in the same versions"
    )


def portable(error: Exception) -> Exception:
    """The same error, if it can travel, with the place where it was raised."""
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # classes from anywhere refuse as they like; the place is told all the same
        return RuntimeError(where)
    error.add_note(where)
    return error.with_traceback(None)
