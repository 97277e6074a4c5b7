"""What every benchmark goes through: the correctness gate first, then the clock."""

import importlib
import math
import os
import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from fastad.base.extras import how_to_install

MIN_ROUND_SECONDS = 0.1  # shorter calls are repeated within a round
ROUNDS, MIN_ROUNDS = 7, 3
MAX_SECONDS = 10  # of a side: fewer rounds, rather than longer
TRIALS, TRIAL_SECONDS = 3, 0.05  # to find out how many threads are quicker
LONG_SECONDS = 1  # of a call: one shows it, and what warming up costs does not
TOLERANCE = 1e-5  # relative to the largest value compared, in float32


class Measure:
    """The fixture through which a benchmark reports its row.

    Args:
        benchmark: pytest-benchmark's fixture.
        row: What is known of the row so far; completed here.
        quick: Take two short rounds: shows that the benchmark works, measures nothing.
    """

    def __init__(self, benchmark: Any, row: dict[str, Any], *, quick: bool) -> None:
        self.benchmark, self.row, self.quick = benchmark, row, quick

    def gate(self, difference: float, *, tolerance: float = TOLERANCE) -> None:
        """Refuse to time what is not correct.

        Args:
            difference: From the specification, relative to its largest value.
            tolerance: Largest difference allowed.
        """
        self.row["difference"] = difference
        if not difference <= tolerance:  # NaN fails too
            pytest.fail(
                f"differs by {difference:.1e} of the largest value, {tolerance:.0e} is allowed: "
                "nothing was timed",
                pytrace=False,
            )

    def rate(self, call: Callable[[], Any], *, work: float, unit: str) -> None:
        """Time `call`, which does `work` units, and report units per second.

        With one thread or with all, whichever is quicker: small work is often slower when it is
        shared, and no side shall look slow because nobody told it so. $OMP_NUM_THREADS decides
        instead where it is set. Then come `ROUNDS` rounds of at least `MIN_ROUND_SECONDS` each, or
        as many as there is time for.
        """

        def timed() -> None:
            call()
            _synchronise()

        all_threads = torch.get_num_threads()
        try:
            threads, seconds = _quickest(timed, all_threads)
            torch.set_num_threads(threads)
            repeats, rounds = 1, 2
            if not self.quick:
                repeats = max(1, round(MIN_ROUND_SECONDS / seconds))
                rounds = min(max(int(MAX_SECONDS / (repeats * seconds)), MIN_ROUNDS), ROUNDS)
            self.benchmark.pedantic(timed, rounds=rounds, iterations=repeats)
        finally:
            torch.set_num_threads(all_threads)
        self.row["threads"] = threads
        self.values([work / seconds for seconds in self.benchmark.stats.stats.data], unit=unit)

    def values(self, values: list[float], *, unit: str) -> None:
        """Report measured values: their median, 20th and 80th percentile."""
        low, high = values[0], values[0]
        if len(values) > 1:
            fifths = statistics.quantiles(values, n=5, method="inclusive")
            low, high = fifths[0], fifths[-1]
        self.row |= {
            "unit": unit,
            "median": statistics.median(values),
            "p20": low,
            "p80": high,
            "rounds": len(values),
        }


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value expected."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def peer(module: str) -> ModuleType:
    """Import a peer's library, or leave the row out with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{error}; install it with: {how_to_install('bench')}")


def needs_memory(num_bytes: float) -> None:
    """Leave the row out where the device has not so much memory left."""
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_bytes > 0.7 * free:
        pytest.skip(f"needs {num_bytes / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free")


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _quickest(timed: Callable[[], None], all_threads: int) -> tuple[int, float]:
    """How many threads a call is quickest with, and its seconds then."""
    choices = {all_threads} if "OMP_NUM_THREADS" in os.environ else {1, all_threads}
    seconds: dict[int, float] = {}
    for _ in range(TRIALS):  # by turns, as a machine is slower now and quicker then
        for threads in sorted(choices):
            if seconds.get(threads, 0.0) < LONG_SECONDS:
                seconds[threads] = min(_try(timed, threads), seconds.get(threads, math.inf))
    threads = min(seconds, key=seconds.__getitem__)
    return threads, seconds[threads]


def _try(timed: Callable[[], None], threads: int) -> float:
    """Seconds that a call takes with so many threads, warmed up unless it is a long one."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    timed()
    if (first := time.perf_counter() - began) > LONG_SECONDS:
        return first
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < TRIAL_SECONDS:
        timed()
        calls += 1
    return (time.perf_counter() - began) / calls
