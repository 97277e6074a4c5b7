"""What an executor is: where jobs run, any of which may be killed at any moment and run again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from fastad.executors.lease import Lease

# A module-level function that does its work while the result is iterated over, which tells how
# far it is; safe to kill at any moment, and to run again. Arguments must pickle.
Job = Callable[..., Iterable[int]]
Handle = Hashable  # of a job that was submitted


class WorkerDiedError(RuntimeError):
    """A worker ended without a word; its job has to be run again."""


class Workers(Protocol):
    """Processes at work, wherever they are.

    Attributes:
        is_remote: Whether they may outlive this process.
    """

    is_remote: bool

    def submit(self, function: Job, arguments: tuple[Any, ...]) -> Handle:
        """Run `function(*arguments)` as soon as there is room for it."""
        ...

    def ended(self, handles: Collection[Handle], seconds: float) -> Collection[Handle]:
        """Those of `handles` whose jobs have ended, waiting for the first a while at most."""
        ...

    def outcome(self, handle: Handle) -> BaseException | None:
        """The error that a job ended with, if any.

        Raises:
            WorkerDiedError: If it did not end by itself.
        """
        ...

    def told(self, handle: Handle) -> int:
        """What a running job told last, 0 if nothing or where nothing but files is shared."""
        ...

    def cancel(self) -> None:
        """End whatever runs: it has stopped then, or been told to and will commit nothing."""
        ...


class Executor(ABC):
    """A kind of place for jobs; the fields of its dataclass are its options."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what cannot work at all; nothing is started for that.

        Raises:
            UserError: If something is not installed, or this is no machine for it.
        """

    @abstractmethod
    def start(self, num_workers: int, lease: Lease, logs: Path) -> AbstractContextManager[Workers]:
        """Start workers, or take up contact to where they will be started.

        Args:
            num_workers: How many jobs run at once, at most.
            lease: Without which no remote worker works.
            logs: Where a folder may be made for what jobs print, if need be; shared by all hosts.

        Raises:
            UserError: If nobody answers.
        """
