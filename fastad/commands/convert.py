"""`fastad convert`: histories and models, into the formats of others and back."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastad.base.errors import UserError


@dataclass(frozen=True)
class ConvertConfig:
    """Bring histories or a model from one format into another; what it becomes follows from names.

    dataset -> Minari: fastad convert data/room minari:ad/room-v0

    Minari -> dataset: fastad convert minari:ad/room-v0 data/again

    dataset -> Parquet: fastad convert data/room room.parquet

    Parquet -> dataset: fastad convert room.parquet data/again

    run -> Hugging Face folder: fastad convert runs/room models/room

    XLand-100B -> dataset: fastad convert xland-100b.hdf5 data/xland

    XLand-100B's files need no conversion: `fastad train FILE.hdf5` reads them where they lie. A
    model's folder is loaded by name: `fastad rollout models/room`. docs/formats.md has it all.
    """

    source: Path
    """A dataset, a run or one of its checkpoints, minari:NAME-v0 (a local dataset of Minari) or its
    folder, a .parquet file that fastad wrote, or an .hdf5 file in XLand-100B's layout."""

    destination: Path
    """A folder, minari:NAME-v0, or a .parquet file."""

    from_format: Literal["dataset", "minari", "parquet", "xland", "run"] | None = None
    """What the source is, where neither name nor content tells (default: what they tell)."""

    to_format: Literal["dataset", "minari", "parquet", "model"] | None = None
    """What the destination shall be, where its name does not tell."""

    history_key: str | None = None
    """Minari data of others: metadata of episodes that tell which learner's history each is of
    (default: history, where all have it; else all are one history, in order)."""

    task_key: str | None = None
    """Minari data of others: metadata that tell which task an episode is of, a number or some
    (default: task, where all have it; else there is one task)."""

    env: str | None = None
    """Minari data of others: the environment by a name of `fastad envs`, gym:ID or
    package.module:callable (default: a label; rollouts then take --env)."""

    num_test_tasks: int = 0
    """Minari data of others: how many of the tasks, the last ones, are held out."""

    overwrite: bool = False
    """Replace what fastad wrote to the destination before; nothing else is deleted."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.num_test_tasks < 0:
            raise UserError(f"num_test_tasks={self.num_test_tasks} must not be negative")


def run_convert(config: ConvertConfig) -> None:
    """Convert, show progress, say what came of it and what next.

    Raises:
        UserError: For what cannot be converted.
    """
    from fastad.api.convert import convert
    from fastad.base.progress import reporting
    from fastad.histories.schema import INFO_FILE
    from fastad.training.model_files import is_model_folder

    with reporting("steps", "convert") as report:
        written = convert(
            config.source, config.destination, from_format=config.from_format,
            to_format=config.to_format, history_key=config.history_key, task_key=config.task_key,
            env=config.env, num_test_tasks=config.num_test_tasks, overwrite=config.overwrite,
            progress=report,
        )  # fmt: skip
    print(f"{config.source} -> {written}")
    if (written / INFO_FILE).is_file():
        print(f"next: {shlex.join(['fastad', 'train', str(written), *_target(written)])}")
    elif is_model_folder(written):
        print(f"next: {shlex.join(['fastad', 'rollout', str(written)])}")
    elif str(config.destination).startswith("minari:"):
        print(f"next, in Python: minari.load_dataset({str(config.destination)[7:]!r})")


def _target(dataset: Path) -> list[str]:
    """What to learn from, where it is not the default."""
    from fastad.histories.reader import load_info

    policies = load_info(dataset).policies
    if "final_policy" in policies:
        return ["--target", "final"]
    return [] if "policy" in policies else ["--target", "sampled"]
