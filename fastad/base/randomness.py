"""Code that draws from the global random numbers of Python, NumPy and PyTorch, kept to itself."""

import random
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")


@contextmanager
def restored_randomness() -> Iterator[None]:
    """Give whoever draws from the global generators after the block what they had before it."""
    before = _states()
    try:
        yield
    finally:
        _restore(before)


def with_own_randomness(work: Generator[T, None, None]) -> Iterator[T]:
    """Iterate over `work`, which finds the global generators as it left them, as others do theirs.

    Args:
        work: Seeds them; closed at the end.
    """
    ours = _states()
    with closing(work):
        while True:
            with restored_randomness():
                _restore(ours)
                try:
                    item = next(work)
                except StopIteration:
                    return
                ours = _states()
            yield item


def _states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _restore(states: tuple[Any, Any, torch.Tensor]) -> None:
    python, numpy, pytorch = states
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(pytorch)
