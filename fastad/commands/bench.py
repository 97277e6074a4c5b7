"""`fastad bench`: the benchmark suite, with a table and JSON."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastad.base.errors import CheckFailedError, UserError, unknown
from fastad.base.extras import how_to_install

DEFAULT_OUT = Path("bench-results")
# What pytest's exit status says.
OK, TESTS_FAILED, INTERRUPTED = 0, 1, 2


@dataclass(frozen=True)
class BenchConfig:
    """Measure fastad beside its peers: correctness first, then the clock.

    Peers that are not installed are left out by name. Ctrl-C keeps what is measured.
    """

    questions: tuple[str, ...] = ()
    """What to measure: attention, collect, horizon, loader, long, memory, neural, render,
    rollout, tabular, train (default: all)."""

    quick: bool = False
    """Tiny sizes: shows that all of it works on this machine, measures nothing."""

    out: Path | None = None
    """Folder for one JSON file per question (default: bench-results; with --quick none)."""

    json: Path | None = None
    """Also write all rows to this one file."""

    threads: int | None = None
    """CPU threads of every side (default: one or all cores, whichever is quicker for a side)."""


def run_bench(config: BenchConfig) -> None:
    """Run every question with pytest in a fresh process, which prints its rows and its table.

    Raises:
        UserError: If a question is unknown, or the suite or pytest-benchmark is not there.
        CheckFailedError: If a side was not correct, or failed; its time was not taken.
        KeyboardInterrupt: After Ctrl-C; what was measured is shown and written then.
    """
    if config.threads is not None and config.threads < 1:
        raise UserError(f"threads={config.threads} must be at least 1")
    files = _chosen(find_suite(), config.questions)
    for package, name in (("pytest", "pytest"), ("pytest_benchmark", "pytest-benchmark")):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{name} is not installed; run: {how_to_install('bench')}")
    out = DEFAULT_OUT if config.out is None and not config.quick else config.out
    options = ["--quick"] if config.quick else []
    if out is not None:
        from fastad.base.outputs import check_folder

        check_folder(f"out={out}", out)
        options += ["--out", str(out)]
    with _collected(config.json) as rows:
        options += [] if rows is None else ["--all-rows", str(rows)]
        statuses = {_measure(files[done:], options, config) for done in range(len(files))}
    if TESTS_FAILED in statuses:
        raise CheckFailedError("a side of the benchmarks failed; no time is shown for it")
    if statuses != {OK}:
        raise UserError(f"pytest could not run the suite (status {max(statuses)}); see above")


@contextmanager
def _collected(file: Path | None) -> Iterator[Path | None]:
    """A file for the rows of all questions, which becomes `file` when the block is left."""
    from fastad.base.files import read_json
    from fastad.base.outputs import check_output, write_output

    if file is None:
        yield None
        return
    check_output("json", file)
    rows = file.with_name(f"{file.name}.part")
    rows.unlink(missing_ok=True)
    try:
        yield rows
    finally:
        if rows.exists():
            write_output(file, read_json(rows, fix="measure again"))
            rows.unlink()
            print(f"wrote {file}")


def _measure(left: list[Path], options: list[str], config: BenchConfig) -> int:
    """Answer the first question in a process of its own: what it leaves would slow the next.

    Returns:
        pytest's exit status.

    Raises:
        KeyboardInterrupt: After a request to stop; noted is the command for what is left.
    """
    command = [sys.executable, "-m", "pytest", str(left[0]), *options]
    try:
        status = _wait(command, _environment(config))
        if status == INTERRUPTED:
            raise KeyboardInterrupt
    except KeyboardInterrupt as stop:
        if config.json is None:  # that file holds the rows of one command
            rest = shlex.join(_rest(left, config))
            stop.add_note(f"what was measured is kept; go on with: {rest}")
        raise
    return status


def _rest(files: list[Path], config: BenchConfig) -> list[str]:
    """The command that measures what is left."""
    options = ["--quick"] if config.quick else []
    options += [] if config.out is None else ["--out", str(config.out)]
    options += [] if config.threads is None else ["--threads", str(config.threads)]
    return ["fastad", "bench", *map(_question, files), *options]


def find_suite() -> Path:
    """The folder of the suite: beside the package in a source tree, or as a wheel installs it.

    Raises:
        UserError: If it is in neither place.
    """
    import fastad

    home = Path(fastad.__file__).parents[1]
    for folder in (home / "fastad_bench" / "benchmarks", home / "benchmarks"):
        if (folder / "harness.py").is_file():
            return folder
    raise UserError(
        f"the benchmark suite is not in {home}; install a wheel of fastad, or run from a checkout"
    )


def _chosen(suite: Path, questions: tuple[str, ...]) -> list[Path]:
    """The files of the suite that answer `questions`; all of them if there are none."""
    files = {_question(file): file for file in sorted(suite.glob("test_*.py"))}
    for question in questions:
        if question not in files:
            raise unknown("question", question, files)
    return [files[question] for question in dict.fromkeys(questions)] or list(files.values())


def _question(file: Path) -> str:
    return file.stem.removeprefix("test_")


def _environment(config: BenchConfig) -> dict[str, str]:
    """What the suite sees: nothing of a pytest that we may run in, and the threads asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    if config.threads is not None:
        kept |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(config.threads))
    return kept


def _wait(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end; a signal to stop reaches it as one Ctrl-C: it writes its results.

    Raises:
        KeyboardInterrupt: What this process was stopped by, after the command has ended.
    """
    # A group of its own: the terminal would otherwise interrupt it a second time.
    process = subprocess.Popen(command, env=environment, process_group=0)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        if process.poll() is None:
            process.kill()
