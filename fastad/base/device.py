"""Which device works, and how many CPU threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastad.base.errors import UserError
from fastad.base.processors import find_processors

MAX_THREADS = 4096  # OpenMP ends the process when it gets no memory for more


def choose_device(name: str, threads: int | None = None) -> torch.device:
    """Resolve "auto", "cpu", "cuda", ... to a device that exists.

    Args:
        name: "auto" takes a GPU if there is one.
        threads: See `set_threads`.

    Raises:
        UserError: If the device is not there.
    """
    set_threads(threads)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} cannot be used ({reason}); try auto or cpu") from error
    return device


def set_threads(threads: int | None = None) -> int:
    """Decide how many CPU threads PyTorch and the kernels take.

    Args:
        threads: None takes OMP_NUM_THREADS if it is set, else PyTorch's default, but no more than
            this process may use at once.

    Returns:
        The number of threads.

    Raises:
        UserError: If it is no number of threads.
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads={threads} must be at least 1")
    if threads is not None and threads > MAX_THREADS:
        raise UserError(f"threads={threads} must be at most {MAX_THREADS:,}")
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = min(torch.get_num_threads(), find_processors().usable)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Work in this thread alone: for steps so small that threads wait longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
