"""Shards that others collect: whether they have the same software, and how far they are."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path

from fastad.base.errors import UserError
from fastad.base.provenance import describe_machine
from fastad.histories.fields import SCHEMA_VERSION
from fastad.histories.meta import ShardMeta, rerun, shard_path, shard_range
from fastad.histories.schema import DatasetInfo
from fastad.histories.writer import shard_is_complete

DECISIVE = ("fastad", "commit", "torch", "numpy")  # whose versions decide what is collected
ARRIVAL = 60.0  # seconds that a network file system may take to show what another host wrote


def versions_here() -> dict[str, str | None]:
    """What decides, on this machine, what a shard will hold; None where it is not known."""
    here = describe_machine()
    return {"schema": str(SCHEMA_VERSION)} | {name: here[name] for name in DECISIVE}


def check_versions(theirs: dict[str, str | None]) -> None:
    """Refuse to work for somebody with other software: shards of one dataset would differ.

    Args:
        theirs: Of `versions_here`, there.

    Raises:
        UserError: Naming host and versions.
    """
    ours = versions_here()
    for name, version in theirs.items():
        own = ours.get(name)
        # A commit is known where fastad runs from a checkout, and not where it was installed.
        if own != version and (name != "commit" or None not in (own, version)):
            raise UserError(
                f"the worker on {platform.node()} has {name} {own}, and {version} is where the "
                "collection was started; install the same there, and run again with --resume"
            )


@dataclass
class Watched:
    """A shard that somebody else collects, seen through the files that it consists of."""

    out: Path
    info: DatasetInfo
    index: int
    num_steps: int  # to take, of all its histories together

    def __post_init__(self) -> None:
        meta = ShardMeta.load(self._shard)
        self._earlier = 0 if meta is None else meta.attempt  # what was committed then is no more

    @property
    def _shard(self) -> Path:
        return shard_path(self.out, self.index)

    def steps(self, told: int) -> int:
        """How far it is, of all its histories together: `told`, unless it has committed more."""
        meta = ShardMeta.load(self._shard)
        if meta is None or meta.attempt <= self._earlier:
            return told
        if meta.committed_steps == self.info.num_steps:
            return self.num_steps
        return max(told, meta.committed_steps * len(shard_range(self.info, self.index)))

    def wait(self) -> None:
        """Wait until a shard that was reported complete is seen to be so.

        Raises:
            UserError: If it does not turn out so.
        """
        deadline = time.monotonic() + ARRIVAL
        while not shard_is_complete(self.out, self.info, self.index):
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{self._shard}: was reported complete, and is not; run again with --resume, "
                    f"or {rerun(self._shard)}"
                )
            time.sleep(0.5)
