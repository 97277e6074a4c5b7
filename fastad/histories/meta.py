"""A shard: which histories it holds, and how much of them is safely on disk; meta.json."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError
from fastad.base.files import read_json
from fastad.histories.fields import SCHEMA_VERSION, check_version, complete
from fastad.histories.schema import META_FILE, DatasetInfo

LEARNER_IDS = {1: "seeds", SCHEMA_VERSION: "learner_ids"}  # what meta.json calls them


def shard_range(info: DatasetInfo, index: int) -> range:
    """The histories that shard `index` holds: an even split, in order."""
    if not 0 <= index < info.num_shards:
        raise UserError(f"shard index={index} must lie in [0, {info.num_shards})")
    first, stop = (i * info.num_histories // info.num_shards for i in (index, index + 1))
    return range(first, stop)


def shard_path(path: str | Path, index: int) -> Path:
    """The folder of shard `index` of the dataset at `path`."""
    return Path(path) / f"shard-{index:05d}"


@dataclass(frozen=True)
class ShardMeta:
    """Which histories a shard holds and how much of them is safely on disk; meta.json."""

    task_ids: list[int]  # rows of tasks.npy, one per history of the shard
    learner_ids: list[int]  # which learner of its task each history is of
    committed_steps: int  # of every history of the shard
    attempt: int  # how often the shard was begun; a reader detects a restart by it
    # SHA-256 of each column's file, once the shard is complete; {} before there were digests.
    digests: dict[str, str] = field(default_factory=dict)
    # Steps of each history, where some are shorter than others; what a column holds behind them
    # repeats their last step. [] where all have as many as the dataset says.
    lengths: list[int] = field(default_factory=list)
    index: int = -1  # of the shard, so that two whole ones cannot change places; -1 before it told

    def to_json(self, schema_version: int) -> dict[str, Any]:
        """The content of meta.json, in a dataset of that schema."""
        renamed = {"learner_ids": LEARNER_IDS[schema_version]}
        stored = {renamed.get(name, name): value for name, value in vars(self).items()}
        if not self.lengths:
            del stored["lengths"]  # readers that know of none read this shard as well
        return {"schema_version": schema_version, **stored}

    @classmethod
    def load(cls, shard: Path) -> "ShardMeta | None":
        """Read the meta.json of a shard; None if the shard was never begun.

        Raises:
            UserError: If the file is damaged or from a newer version.
        """
        file = shard / META_FILE
        try:
            values = read_json(file, fix=rerun(shard))
        except FileNotFoundError:
            return None
        name = LEARNER_IDS[check_version(values.pop("schema_version", None), file)]
        if name in values:
            values["learner_ids"] = values.pop(name)
        return cls(**complete(cls, values, file, rerun(shard)))


def rerun(shard: Path) -> str:
    """How to mend a damaged shard."""
    return f"delete {shard} and run `fastad collect` again to rebuild it"
