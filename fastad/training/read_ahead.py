"""Batches for the trainer, which should never wait for data."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

from fastad.methods.base import Batch, Method


class ReadAhead:
    """The batches of consecutive updates, on the trainer's device; a context manager.

    For a GPU one thread reads the batch of the next update during this one, into pinned memory
    from where it is copied without waiting. On a CPU there is no one to compute meanwhile, and a
    batch that depends on the weights cannot be known: it is read when it is asked for. Either way
    it is the method's batch of that update.

    Args:
        method: Of the training.
        device: Where batches go.
        stop: No batch is read for this update or a later one.
        ahead: Whether to read ahead; by default on GPUs only.

    Attributes:
        waited: Seconds that `batch` took in all.
    """

    def __init__(
        self,
        method: Method,
        device: torch.device,
        *,
        stop: int,
        ahead: bool | None = None,
    ) -> None:
        self.method, self.device, self.stop = method, device, stop
        self.waited = 0.0
        wanted = device.type == "cuda" if ahead is None else ahead
        self._reads_ahead = wanted and not method.follows_weights
        self._next: tuple[int, Future[Batch]] | None = None
        # Starts its thread with the first batch that is read ahead.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """The batch of update `step`.

        Raises:
            Exception: Whatever the method raised for this very update.
        """
        began = time.perf_counter()
        expected, self._next = self._next, None
        if expected is not None and expected[0] == step:
            batch = expected[1].result()
        else:
            batch = self._read(step)
        if self._reads_ahead and step + 1 < self.stop:
            self._next = step + 1, self._executor.submit(self._read, step + 1)
        batch = batch.to(self.device)
        self.waited += time.perf_counter() - began
        return batch

    def _read(self, step: int) -> Batch:
        batch = self.method.batch(step)
        return batch.pin() if self.device.type == "cuda" else batch
