"""What `report` can be told; the docstrings are its help. Light to import, as configs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastad.base.config import check_seed
from fastad.base.errors import UserError

MAX_REPLAYS = 16  # of a run: the page has to stay small


@dataclass(frozen=True)
class ReportConfig:
    """Show runs on one page, a file that any browser opens, without a network.

    Return per episode beside source, chance and optimum; every task; replays with what the model
    attends to at each step; configuration, data, training. Rollouts that runs keep are used, and
    what is missing is rolled out and kept.
    """

    runs: tuple[str, ...] = ("runs/dark-room",)
    """Run folders, or folders that hold some, as `fastad demo` and `fastad compare` leave them.
    Runs that differ in nothing but the seed are one line."""
    out: Path | None = None
    """The page, ending with .html (default: NAME-report.html beside the first run or folder)."""
    overwrite: bool = False
    """Replace the report that is there."""
    replays: int = 3
    """Tasks whose rollouts can be replayed, of every run; of runs that differ in nothing but the
    seed, of the first; 0 for none."""
    split: Literal["test", "validation", "train"] = "test"
    """Tasks held out for reports, those held out to look at while training, or those trained
    on."""
    seed: int = 0
    """Of replays, and of rollouts that are missing."""
    open: bool = False
    """Open the page in a browser."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads (default: all cores)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        if not 0 <= self.replays <= MAX_REPLAYS:
            raise UserError(f"replays={self.replays} must lie between 0 and {MAX_REPLAYS}")
