"""How far a long command is.

A bar on a terminal; elsewhere one line of key=value pairs every few seconds, so that a log stays
short and can be searched.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


RATE_SECONDS = 10.0  # over which the rate is taken: it shall be that of now


class Report(Protocol):
    """Is told how far a work is: first what an earlier one had done, then every bit more."""

    def __call__(self, done: int, total: int, **figures: Any) -> None:
        """Take note that `done` of `total` units are done, and of what else there is to show."""
        ...


def unwatched(done: int, total: int, **figures: Any) -> None:
    """A report to nobody."""


@contextmanager
def progress(
    total: int, unit: str, label: str, *, completed: int = 0, interval: float = 5.0
) -> Iterator[Progress]:
    """Show the progress of a block of work on standard output.

    Args:
        total: Units of work in all.
        unit: What is counted, in the plural: "steps".
        label: The command.
        completed: Units done in an earlier run; they do not count towards the rate.
        interval: Seconds between lines at least, where standard output is no terminal.

    Yields:
        The progress; tell it of every bit of work.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        lines = Lines(total, unit, label, completed, interval)
        try:
            yield lines
        finally:
            lines.write()
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with RichProgress(*columns, console=console) as display:
        yield Bar(total, unit, label, completed, display)


@contextmanager
def reporting(unit: str, label: str, *, interval: float = 5.0) -> Iterator[Report]:
    """Show on standard output what a work reports, from its first report on; see `progress`."""
    shown: Progress | None = None
    with ExitStack() as stack:

        def report(done: int, total: int, **figures: Any) -> None:
            nonlocal shown
            if shown is None and 0 < done == total and not figures:
                print(f"{label} {unit}={done} total={total}: already complete")
                return
            if shown is None:
                begun = progress(total, unit, label, completed=done, interval=interval)
                shown = stack.enter_context(begun)
                if not figures:
                    return
            shown.update(done, **figures)

        yield report


class Progress:
    """Counts units of work; subclasses show the count.

    Args:
        total: Units of work in all.
        unit: What is counted.
        label: The command.
        completed: Units done in an earlier run.
    """

    def __init__(self, total: int, unit: str, label: str, completed: int) -> None:
        self.total = total
        self.unit = unit
        self.label = label
        self.completed = completed
        self.fields: dict[str, Any] = {}
        self._began = time.monotonic()
        self._marks = deque([(self._began, completed)])  # when how much was done, oldest first

    @property
    def rate(self) -> float:
        """Units per second of late."""
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / max(now - then, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None as long as nothing is known of it."""
        return (self.total - self.completed) / self.rate if self.rate > 0 else None

    def advance(self, count: int, **fields: Any) -> None:
        """Note `count` further units, and what else is to be shown from now on."""
        self.update(self.completed + count, **fields)

    def update(self, completed: int, **fields: Any) -> None:
        """Note that `completed` units are done in all, and what else is to be shown from now on."""
        self.completed = completed
        self.fields |= fields
        now = time.monotonic()
        # An evaluation, or a look between two commits, is no sign of a standstill.
        if completed != self._marks[-1][1]:
            self._marks.append((now, completed))
        while len(self._marks) > 2 and self._marks[1][0] <= now - RATE_SECONDS:
            self._marks.popleft()
        self.show()

    def show(self) -> None:
        """Show the state of things, if it is time to."""


class Lines(Progress):
    """Prints a line every `interval` seconds, and a last one from `write`."""

    def __init__(self, total: int, unit: str, label: str, completed: int, interval: float) -> None:
        super().__init__(total, unit, label, completed)
        self._interval = interval
        self._written_at = self._began
        self._news = True

    def show(self) -> None:
        """Print a line, unless the last one is recent."""
        self._news = True
        if time.monotonic() - self._written_at >= self._interval:
            self.write()

    def write(self) -> None:
        """Print a line, unless the last one said it all."""
        if not self._news:
            return
        self._written_at = time.monotonic()
        self._news = False
        pairs = {
            self.unit: self.completed,
            "total": self.total,
            f"{self.unit}_per_second": self.rate,
            "left": _duration(self.seconds_left),
            **self.fields,
        }
        text = " ".join(f"{key}={_short(value)}" for key, value in pairs.items())
        print(f"{self.label} {text}", flush=True)
        self.fields = {}


class Bar(Progress):
    """A bar with rate and time left."""

    def __init__(
        self, total: int, unit: str, label: str, completed: int, display: RichProgress
    ) -> None:
        super().__init__(total, unit, label, completed)
        self._display = display
        self._task = display.add_task(label, total=total, completed=completed, rate="", text="")

    def show(self) -> None:
        """Move the bar."""
        text = "  ".join(f"{key} {_short(value)}" for key, value in self.fields.items())
        rate = (
            f"{self.rate:,.0f} {self.unit}/s"
            if self.rate >= 10
            else f"{self.rate:.2g} {self.unit}/s"
        )
        self._display.update(self._task, completed=self.completed, rate=rate, text=text)


def _duration(seconds: float | None) -> str:
    """As the bar shows it: hours, minutes, seconds."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _short(value: object) -> str:
    """Floats to four digits, but never in scientific notation for large ones."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
