"""A compiled library put to the test in a process of its own.

There it may crash, or change how the processor rounds, without harm, and its time is measured
whatever the caller has set up around itself.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastad_kernels.native.compiler import NativeUnavailableError

SECONDS = 300  # then it hangs


def prove(library: Path) -> str:
    """Compare a library with the reference once: what is wrong with it, or "".

    Raises:
        NativeUnavailableError: If that cannot be found out, or it crashes.
    """
    wrong: str = _run("prove", library)
    return wrong


def measure(library: Path) -> dict[str, float]:
    """See `measure.measure`, with as many threads as PyTorch has here.

    Raises:
        NativeUnavailableError: If that cannot be found out.
    """
    ratios: dict[str, float] = _run("measure", library)
    return ratios


def _run(what: str, library: Path) -> Any:
    code = "from fastad_kernels.native import trial; trial.main()"
    arguments = [what, str(library), str(torch.get_num_threads())]
    # The same packages as here, and no module from wherever we happen to stand.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments], env=environment, timeout=SECONDS,
            capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailableError(f"the C++ kernels cannot be tried: {error}") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        flags = os.environ.get("CXXFLAGS")
        fix = f"; leave out CXXFLAGS={flags!r}" if flags else ""
        raise NativeUnavailableError(f"the C++ kernels crash ({name}) when tried{fix}")
    if done.returncode > 0:
        *_, last = ["no reason given", *done.stderr.strip().splitlines()]
        raise NativeUnavailableError(last.removeprefix(f"{_name(NativeUnavailableError)}: "))
    return json.loads(done.stdout.splitlines()[-1])


def _name(error: type[Exception]) -> str:
    return f"{error.__module__}.{error.__name__}"


def main() -> None:
    """Run in the process: what to do, the library, the threads; prints JSON."""
    from fastad_kernels.native import build
    from fastad_kernels.native.measure import measure
    from fastad_kernels.native.proof import find_error

    what, library, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    build.adopt(Path(library))
    tasks: dict[str, Callable[[], Any]] = {"prove": find_error, "measure": measure}
    print(json.dumps(tasks[what]()))
