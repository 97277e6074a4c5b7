"""Training, rollout and collection beside one other busy program, as on anybody's machine.

"fastad beside it" is what fastad does by default while another process computes without end: its
threads sleep while they wait. "alone, one thread" is what no neighbour can take from it. "spinning
beside it" is the same with threads that wait as PyTorch's do by default. Each in a fresh process,
since threads learn how to wait when they are loaded.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from benchmarks import busy_probe
from benchmarks.harness import Measure
from benchmarks.test_rollout import difference

SECONDS = 5.0


class Side(NamedTuple):
    """How a process is run: beside a busy one or not, its threads (0: default), its settings."""

    busy: bool
    threads: int
    environment: dict[str, str]


SIDES = {
    "fastad beside it": Side(True, 0, {}),
    "alone, one thread": Side(False, 1, {}),
    "fastad alone": Side(False, 0, {}),
    "spinning, alone": Side(False, 0, {"OMP_WAIT_POLICY": "ACTIVE"}),
    "spinning beside it": Side(True, 0, {"OMP_WAIT_POLICY": "ACTIVE"}),
}
CASES = ["train", "rollout", "collect"]
QUICK = ["rollout"]
# Those of this process shall not decide for the one that is measured.
UNSET = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def test_busy(measure: Measure, case: str, side: str) -> None:
    """See the module."""
    measure.gate(difference("fastad"))
    busy, threads, environment = SIDES[side]
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    seconds = 0.1 if measure.quick else SECONDS
    with neighbour() if busy else nullcontext():
        done = subprocess.run(
            [sys.executable, busy_probe.__file__, case, str(seconds), str(threads)],
            env=kept | environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]
    measure.values([float(rate) for rate in done.stdout.split()], unit="steps/s")


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that never stops computing."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
