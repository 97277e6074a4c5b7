"""The processes of a training, as torchrun starts them, and what they tell each other.

They work in step: whatever one of them does for all, or has to stop for, all know of before any
goes on. So none ever waits for one that has left.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from fastad.base.errors import UserError, os_error
from fastad.base.interrupt import Requests, Stopped, deferred_interrupt, interruption
from fastad.base.launched import launched

T = TypeVar("T")
_opened = itertools.count()
LET_GO = 0.1  # seconds
PATIENCE = timedelta(days=7)  # the others wait while the first evaluates
# What a rank has to stop for, beside the numbers of signals; the largest of all decides.
TERMINAL_REFUSED, FILE_REFUSED, FAILED = 1000, 1001, 1002
# How PyTorch says, in an exception of no class of its own, that another process is gone.
LOST = ("gloo", "connection closed", "connection reset", "nccl", "broken pipe")


class Ranks:
    """The processes of a training; this is one that trains by itself.

    Attributes:
        rank: The number of this process.
        size: How many there are.
    """

    rank, size = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that alone writes, evaluates and speaks."""
        return self.rank == 0

    def on_first(self, work: Callable[[], T], *, long: bool = False) -> T | None:
        """Let the first process work while the others wait; what it raises ends all.

        Args:
            work: What to do.
            long: Whether a request to stop interrupts it, within an `update` or not.
        """
        return work()

    def from_first(self, work: Callable[[], T]) -> T:
        """As `on_first`, and every process is given the outcome."""
        return work()

    def together(self, work: Callable[[], T]) -> T:
        """Let every process work; what the user got wrong anywhere ends all, with one message."""
        return work()

    def check_same(self, facts: dict[str, Any]) -> None:
        """Refuse to go on if what has to be the same in every process is not.

        Raises:
            UserError: Naming the first fact that differs, and who says what.
        """

    def mean(self, values: Tensor) -> Tensor:
        """Over all processes, element by element."""
        return values

    def total(self, values: Tensor) -> Tensor:
        """As `mean`, the sum."""
        return values

    def give(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""

    def agreed(self, error: Exception) -> BaseException:
        """What to raise of an error that every process has found: one alone says it."""
        return error

    def training(self) -> AbstractContextManager[Any]:
        """The length of a training."""
        return nullcontext()

    def update(self) -> AbstractContextManager[Any]:
        """An update, in which no request to stop interrupts; then it does, after the same for all.

        One that is an exception of this process alone ends it at once, and so the others.
        """
        return deferred_interrupt()


class SeveralRanks(Ranks):
    """Processes that exchange gradients; see `open_ranks`.

    Args:
        rank: See `Ranks`.
        size: As well.
        store: Where all of them can leave notes.
        control: The group in which they talk, on CPUs; None: the one of the gradients.
    """

    def __init__(self, rank: int, size: int, store: Any, control: dist.ProcessGroup | None) -> None:
        self.rank, self.size = rank, size
        self._store, self._control = store, control
        self._requests: Requests | None = None

    def on_first(self, work: Callable[[], T], *, long: bool = False) -> T | None:
        """See `Ranks.on_first`; the others raise what makes them end, or save, as the first."""
        outcome, error = None, None
        if self.is_first:
            try:
                with self._requests.released() if self._requests and long else nullcontext():
                    outcome = work()
            except (Exception, KeyboardInterrupt) as raised:
                error = raised
        self._agree(error)
        return outcome

    def from_first(self, work: Callable[[], T]) -> T:
        """See `Ranks.from_first`."""
        outcome: list[Any] = [self.on_first(work)]
        dist.broadcast_object_list(outcome, src=0, group=self._control)
        given: T = outcome[0]
        return given

    def together(self, work: Callable[[], T]) -> T:
        """See `Ranks.together`."""
        outcome, wrong = None, None
        try:
            outcome = work()
        except UserError as error:
            wrong = str(error)
        except OSError as error:
            wrong = str(os_error(error))
        found = self._gather(wrong)
        if any(text is not None for text in found):
            at, text = next((i, text) for i, text in enumerate(found) if text is not None)
            raise self.agreed(UserError(text if at == 0 else f"rank {at}: {text}"))
        return outcome  # type: ignore[return-value]

    def check_same(self, facts: dict[str, Any]) -> None:
        """See `Ranks.check_same`."""
        ours, *others = self._gather(facts)
        for rank, theirs in enumerate(others, start=1):
            for name in sorted(ours.keys() | theirs.keys()):
                if ours.get(name) != theirs.get(name):
                    raise self.agreed(
                        UserError(
                            f"ranks disagree: {name}={ours.get(name)} on rank 0, "
                            f"{theirs.get(name)} on rank {rank}; start all of them with the same "
                            "command, data and versions"
                        )
                    )

    def mean(self, values: Tensor) -> Tensor:
        """See `Ranks.mean`."""
        return self.total(values) / self.size

    def total(self, values: Tensor) -> Tensor:
        """See `Ranks.total`."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def give(self, tensors: list[Tensor]) -> None:
        """See `Ranks.give`."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def agreed(self, error: Exception) -> BaseException:
        """See `Ranks.agreed`."""
        return error if self.is_first else SystemExit(2)

    @contextmanager
    def training(self) -> Iterator[None]:
        """See `Ranks.training`: requests to stop are held back, and looked for between updates."""
        with deferred_interrupt() as self._requests:
            try:
                yield
            finally:
                self._requests = None

    @contextmanager
    def update(self) -> Iterator[None]:
        """See `Ranks.update`."""
        yield
        self._agree(None)

    def ending(self, error: BaseException) -> BaseException:
        """What is to be raised of an error that ends this process: one of all says something."""
        lost = any(_is_loss(cause) for cause in _chain(error))
        if isinstance(error, KeyboardInterrupt) and not lost:
            return error if self.is_first else SystemExit(128 + _code(error))
        if not self._has_the_word():
            return SystemExit(2 if lost or isinstance(error, UserError | OSError) else 1)
        if not lost:
            return error
        return UserError(
            f"another of the {self.size} ranks is gone, and training stopped; what it said stands "
            "above, or in the launcher's report; go on from the last checkpoint with --resume"
        )

    def _has_the_word(self) -> bool:
        """Whether this process is the first that has something to say."""
        try:
            return bool(self._store.add("word", 1) == 1)
        except RuntimeError:
            return True  # whoever kept the notes is gone

    def _agree(self, error: BaseException | None) -> None:
        """Raise in every process if any of them has to stop, `error` where it happened."""
        code = _code(error)
        if self._requests is not None and self._requests.pending is not None:
            code = max(code, self._requests.pending)
        worst = torch.tensor(code)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=self._control)
        code = int(worst)
        if code == 0:
            return
        if self._requests is not None:
            self._requests.pending = None
        if error is not None:
            raise error
        if code in (TERMINAL_REFUSED, FILE_REFUSED):
            # As where it happened: whether a file has failed decides what is kept.
            file = "a file of the first rank" if code == FILE_REFUSED else None
            raise OSError(0, "the first rank could not go on", file)
        raise SystemExit(2) if code == FAILED else interruption(code)

    def _gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values


ALONE = Ranks()


@contextmanager
def open_ranks(device: str) -> Iterator[Ranks]:
    """Join the other processes that torchrun started, if it did; leave them at the end.

    Of what ends several processes one alone speaks: the others raise SystemExit.

    Args:
        device: As the user named it: GPUs talk by NCCL, CPUs by gloo.

    Raises:
        UserError: If they cannot be joined, or one of them is gone.
    """
    here = launched()
    if here.size == 1:
        yield ALONE
        return
    if not dist.is_available():
        raise UserError(
            f"WORLD_SIZE={here.size}: this PyTorch was built without torch.distributed; train in "
            "one process"
        )
    on_gpu = local_device(device).startswith("cuda")
    rank, size = here.rank, here.size
    # Another training in the same processes shall find nothing of this one.
    store = PrefixStore(f"fastad/{next(_opened)}", _notes())
    if on_gpu:
        torch.cuda.set_device(torch.device(local_device(device)))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE
    )
    control = dist.new_group(backend="gloo", timeout=PATIENCE) if on_gpu else None
    ranks = SeveralRanks(rank, size, store, control)
    try:
        yield ranks
    except (Exception, KeyboardInterrupt) as error:
        # A launcher that notices a lost process asks the others to stop, while one is speaking.
        with deferred_interrupt():
            last = ranks.ending(error)
            if last is error:
                raise
            raise last from error
    finally:
        # A thread of gloo may still have a tensor to give back, for which it needs Python's lock.
        # Whoever destroys the group holds the lock and waits for that thread: let it go first.
        time.sleep(LET_GO)
        with suppress(RuntimeError):
            dist.destroy_process_group()


@cache
def _notes() -> Any:
    """Where all ranks can leave notes, for as long as they run: the first one may be the host."""
    return next(rendezvous("env://", timeout=PATIENCE))[0]


def local_device(name: str) -> str:
    """The device of this process, of those that the user named together."""
    here = launched()
    if here.size == 1 or name not in ("auto", "cuda"):
        return name
    return f"cuda:{here.local_rank}" if torch.cuda.is_available() else name


def _code(error: BaseException | None) -> int:
    if isinstance(error, KeyboardInterrupt):
        return error.number if isinstance(error, Stopped) else 2
    if error is None:
        return 0
    if isinstance(error, OSError):
        return TERMINAL_REFUSED if error.filename is None else FILE_REFUSED
    return FAILED


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _is_loss(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in LOST)
