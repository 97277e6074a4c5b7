"""What `compare` can be told; the docstrings are its help. Light to import, as configs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastad.base.config import Track, check_seed
from fastad.base.errors import UserError


@dataclass(frozen=True)
class CompareConfig:
    """Train several methods, roll all of them out on the same tasks, and show them in one figure.

    What is missing is collected, trained and rolled out; what is there is used again, and what was
    stopped goes on where it stopped. Beside the methods stand their source, chance and the optimum.
    """

    what: tuple[str, ...] = ("dark-room",)
    """A preset, one of those that `fastad presets` lists; or folders of runs that are there, which
    are compared as they are, by their own seeds: runs that differ in nothing else are one line."""
    methods: tuple[str, ...] = ()
    """Methods, which `fastad methods` lists, and variants of them that the preset names (default:
    all of both)."""
    vary: str | None = None
    """Also train every method with each value of a setting, as NAME=VALUE,VALUE,...; a second
    picture shows by value how all ended. NAME is any setting of `fastad collect` or `fastad train`
    that holds one value: num_train_tasks=8,16,32 has a dataset for each value, and the same test
    tasks for all; updates=300,600,1200 shares the data. Or context_episodes=0.25,0.5,1,2,4,8:
    attention's context in episodes, in training and rollouts alike; training windows stay as long
    as they are. It is what each layer looks back on: through L layers information comes from L
    times as far. And an episode begins in sight of the end of the one before, so that a context of
    one episode that slides is no control; --controls one-episode is."""
    controls: tuple[str, ...] = ()
    """Also roll the first method out with this hidden from it: no-reward, wiped-context, and what
    else `fastad rollout --help` explains under --control."""
    seeds: int = 3
    """How many times everything is trained and rolled out, with another seed each time. From three
    on, the intervals tell how much seeds matter."""
    seed: int = 0
    """The first of the seeds, and that of the tasks and the histories, which all of them share."""
    data_per_seed: bool = False
    """Collect for each seed histories of its own, of another split of the tasks."""
    split: Literal["test", "validation", "train"] = "test"
    """Tasks to roll out on; what is chosen by looking at them is chosen on validation tasks."""
    episodes: int | None = None
    """Episodes of each rollout (default: as the preset has it, or as many as a training window of
    the first method showed)."""
    rollouts_per_task: int | None = None
    """Rollouts on each task (default: as the preset has it, or enough for 128 in all)."""
    out: Path | None = None
    """Folder for data, runs, figures, tables and pictures (default: runs/compare-PRESET, or
    runs/comparison for runs that are there)."""
    json: Path | None = None
    """Also write every figure here."""
    overwrite: bool = False
    """Delete the data and the runs that an earlier comparison left in `out` and start anew."""
    workers: int = 1
    """Processes that collect."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads (default: all cores)."""
    track: tuple[Track, ...] = ()
    """Where the logs of its trainings go besides metrics.jsonl, as `fastad train --track`."""
    track_project: str | None = None
    """As `fastad train --track-project`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        for name in ("seeds", "episodes", "rollouts_per_task", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1")
