"""Whether a launcher such as torchrun started this process as one of several, and which it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fastad.base.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Launched(NamedTuple):
    """One of several processes.

    Attributes:
        rank: Its number among all.
        size: Processes in all; 1 without a launcher.
        local_rank: Its number on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def command(self) -> list[str]:
        """What fastad is started with, as far as the launcher tells."""
        if self.size == 1:
            return ["fastad"]
        count = os.environ.get("LOCAL_WORLD_SIZE", str(self.size))
        nodes = [] if count == str(self.size) else ["--nnodes", str(self.size // int(count))]
        return ["torchrun", *nodes, "--nproc-per-node", count, "-m", "fastad"]


def launched() -> Launched:
    """What the launcher's environment variables say.

    Raises:
        UserError: If they are no numbers that go together.
    """
    if not all(name in os.environ for name in VARIABLES):
        return Launched()
    values = os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ.get("LOCAL_RANK", "0")
    if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
        raise UserError(
            f"RANK={values[0]}, WORLD_SIZE={values[1]}, LOCAL_RANK={values[2]} in the environment "
            "are no process of several; start with torchrun, or unset them"
        )
    return Launched(*map(int, values))


@contextmanager
def first_speaks() -> Iterator[None]:
    """Let what every process finds wrong alike be said by the first alone; the others just end."""
    try:
        yield
    except UserError:
        if launched().rank > 0:
            raise SystemExit(2) from None
        raise
