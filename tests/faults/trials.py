"""Trials of a fault, counted: each is survived, refused by name, or a loss."""

import ctypes
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

TIMEOUT = 240.0  # seconds, of a command that takes less than one; what takes longer hangs
HANGS = -1000  # instead of an exit code


class Outcome(NamedTuple):
    """How one trial went.

    Attributes:
        verdict: "survived": what is left equals what an unbroken command leaves. "refused": one
            line named what is wrong, with exit code 2, and nothing was lost. "lost": anything else.
        text: What was lost, or what was said.
        kills: Processes killed.
    """

    verdict: Literal["survived", "refused", "lost"]
    text: str = ""
    kills: int = 0


@dataclass
class Row:
    """All trials of one fault."""

    fault: str
    trials: int = 0
    kills: int = 0
    survived: int = 0
    refused: int = 0
    losses: list[str] = field(default_factory=list)
    said: str = ""  # an example of what was said by a refusal

    def count(self, outcome: Outcome) -> None:
        """Add one trial."""
        self.trials += 1
        self.kills += outcome.kills
        self.survived += outcome.verdict == "survived"
        self.refused += outcome.verdict == "refused"
        if outcome.verdict == "lost":
            self.losses.append(outcome.text)
        if outcome.verdict == "refused":
            self.said = outcome.text


@dataclass(frozen=True)
class Fault:
    """One kind of fault, tried often.

    Attributes:
        name: In the table.
        trials: How often; None until there were `kills`.
        trial: One trial: told its number and what is random about it.
        kills: See `trials`.
    """

    name: str
    trial: Callable[[int, random.Random], Outcome]
    trials: int | None = None
    kills: int = 0

    def is_done(self, row: Row) -> bool:
        """Whether there were enough."""
        return row.trials >= self.trials if self.trials is not None else row.kills >= self.kills


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # negative for the signal that killed it
    errors: str  # all of standard error

    @property
    def refused(self) -> bool:
        """Whether one whole line said why, and how to put it right."""
        line, end, rest = self.errors.partition("\n")
        return self.code == 2 and line.startswith("fastad: ") and end == "\n" and not rest

    def __str__(self) -> str:
        return f"exit code {self.code}: {self.errors.strip()[-2000:]}"


class Process:
    """A function in a forked child, with everything imported, so that its whole life is work.

    Args:
        work: Returns an exit code.
        before: Called in the child first.
    """

    def __init__(self, work: Callable[[], int], before: Callable[[], None] | None = None) -> None:
        # A pipe, which no full disk and no limit on files cuts short; it holds 64 KiB.
        self.errors, errors = os.pipe()
        os.set_blocking(self.errors, False)  # orphans may keep the other end
        self.began = time.monotonic()
        self.number = os.fork()
        if self.number == 0:
            _live(work, errors, before)
        os.close(errors)

    def send(self, number: int) -> None:
        """Send a signal; a child that ended is still ours, so that its number is nobody else's."""
        os.kill(self.number, number)

    def has_ended(self) -> bool:
        """Whether it ended; `wait` still has to be called."""
        status = os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return status is not None

    def wait(self, seconds: float = TIMEOUT) -> Ended:
        """Wait for its end; what hangs is killed."""
        deadline = time.monotonic() + seconds
        pause, code = 0.0005, None
        while not self.has_ended():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                code = HANGS
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        status = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        return Ended(status if code is None else code, self._read())

    def _read(self) -> str:
        parts = []
        with suppress(BlockingIOError):
            while part := os.read(self.errors, 2**16):
                parts.append(part)
        os.close(self.errors)
        return b"".join(parts).decode(errors="replace")


class Duration(NamedTuple):
    """How long a child's work takes unbroken, in seconds."""

    wall: float
    own: float  # on processors, without what its own children did

    @property
    def is_own(self) -> bool:
        """Whether the process works itself: else its children do."""
        return self.own > 0.3 * self.wall or self.wall < 2


class _Event(ctypes.Structure):
    """`sigevent` of Linux, as far as a signal needs it."""

    _fields_ = [
        ("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    ]  # fmt: skip


class _Times(ctypes.Structure):
    """`itimerspec`."""

    _fields_ = [(name, ctypes.c_long) for name in ("every", "every_ns", "first", "first_ns")]


def signal_after(number: int, seconds: float) -> None:
    """Have the system send this process a signal after so much more processor time of its own.

    Where others use the machine too, the wall clock says little of how far a process is, and
    another process is late to kill it.
    """
    libc, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
    first = time.process_time() + max(seconds, 1e-6)
    times = _Times(0, 0, int(first), int(first % 1 * 1e9))
    absolute = 1
    made = libc.timer_create(
        time.CLOCK_PROCESS_CPUTIME_ID, ctypes.byref(_Event(None, number, 0)), ctypes.byref(timer)
    )
    if made != 0 or libc.timer_settime(timer, absolute, ctypes.byref(times), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _live(work: Callable[[], int], errors: int, before: Callable[[], None] | None) -> None:
    status = 70
    try:
        # At the level of descriptors, which workers inherit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(errors, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        try:
            if before is not None:
                before()
            status = work()
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def run_fault(
    fault: Fault, row: Row, seed: int, after: Callable[[Row], None] = lambda row: None
) -> None:
    """Try a fault as often as it shall be; trials that `row` has already are not repeated.

    Args:
        fault: What is tried.
        row: Mutated.
        seed: Of everything random; trial `i` depends on it, the fault's name and `i` alone.
        after: Called after every trial.
    """
    while not fault.is_done(row):
        rng = random.Random(f"{seed} {fault.name} {row.trials}")
        try:
            row.count(fault.trial(row.trials, rng))
        except Exception:  # of a command in this process: a traceback is a loss
            row.count(Outcome("lost", f"trial {row.trials}: {traceback.format_exc()[-2000:]}"))
        after(row)


def table(rows: list[Row]) -> str:
    """Faults, trials and how they went, as text."""
    names = ("trials", "kills", "survived", "refused", "losses")
    width = max([len(row.fault) for row in rows] + [len("in all")])
    lines = [f"{'fault':{width}} " + " ".join(f"{name:>9}" for name in names)]
    total = Row("in all")
    for row in rows:
        counts = asdict(row)
        total.trials += row.trials
        total.kills += row.kills
        total.survived += row.survived
        total.refused += row.refused
        total.losses += row.losses
        lines.append(_line(counts, width))
    return "\n".join([*lines, _line(asdict(total), width)])


def _line(counts: dict[str, object], width: int) -> str:
    losses = counts["losses"]
    assert isinstance(losses, list)
    numbers = [counts["trials"], counts["kills"], counts["survived"], counts["refused"]]
    return f"{counts['fault']:{width}} " + " ".join(f"{n:>9,}" for n in [*numbers, len(losses)])


class Results:
    """Rows in a JSON file, part by part, so that a stopped run goes on where it was.

    Args:
        file: Read if it exists.
        seed: Another one begins anew.
        scratch: Where trials are; what was said is kept without it.
    """

    def __init__(self, file: Path, seed: int, scratch: Path) -> None:
        self.file, self.seed, self.scratch = file, seed, scratch
        self.facts: dict[str, object] = {}
        self.rows: dict[str, Row] = {}
        self._saved = 0.0
        if file.exists():
            stored = json.loads(file.read_text())
            if stored["seed"] == seed:
                self.rows = {row["fault"]: Row(**row) for row in stored["rows"]}

    def row(self, fault: str) -> Row:
        """The row of a fault, begun if need be."""
        return self.rows.setdefault(fault, Row(fault))

    def save(self, *, at_least_after: float = 0.0) -> None:
        """Write the file, and the table beside it, unless that was done within so many seconds."""
        if time.monotonic() - self._saved < at_least_after:
            return
        rows = [asdict(row) for row in self.rows.values()]
        for row in rows:
            row["said"] = row["said"].replace(f"{self.scratch}/", "")
        total = {
            name: sum(row[name] for row in rows)
            for name in ("trials", "kills", "survived", "refused")
        }
        total["losses"] = sum(len(row["losses"]) for row in rows)
        content = {**self.facts, "seed": self.seed, "total": total, "rows": rows}
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(self.file)
        self.file.with_suffix(".txt").write_text(table(list(self.rows.values())) + "\n")
        self._saved = time.monotonic()
