"""The columns of a shard: one quantity per step of every history, one file each."""

import math
from typing import Any, NamedTuple

import numpy as np

from fastad.histories.schema import META_FILE, POLICIES, DatasetInfo
from fastad.spaces import stored_as

BOUNDS = "bounds"  # no column: where episodes begin and end, see `HistoryDataset.episode_bounds`
# What the files of columns are called in datasets of schema 1; since then they have no other name.
NAMES_OF_SCHEMA_1 = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "terminated": "terminations",
    "truncated": "truncations",
    "policy": "action_probs",
}
# Every file that there may be in a shard.
SHARD_FILES = (
    META_FILE,
    *(
        f"{name}.npy"
        for name in (*NAMES_OF_SCHEMA_1, *NAMES_OF_SCHEMA_1.values(), *POLICIES[1:], BOUNDS)
    ),
)


class Column(NamedTuple):
    """One quantity per step of every history, stored as one file per shard."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of one step

    @property
    def bytes_per_step(self) -> int:
        """Of one history."""
        return self.dtype.itemsize * math.prod(self.shape)


def columns(info: DatasetInfo) -> dict[str, Column]:
    """The columns of every shard, named as `Transition`'s fields and in their order.

    Raises:
        UserError: For a space that cannot be stored.
    """
    distribution = info.actions
    policy = Column(distribution.policy_dtype, (distribution.num_params,))
    return {
        "observation": Column(*stored_as(info.observation_space)),
        "action": Column(*stored_as(info.action_space)),
        "reward": Column(np.dtype(np.float32), ()),
        "terminated": Column(np.dtype(np.bool_), ()),
        "truncated": Column(np.dtype(np.bool_), ()),
        **dict.fromkeys(info.policies, policy),
    }


def shard_files(info: DatasetInfo) -> list[str]:
    """What a complete shard has files of, each with a digest: the columns, and bounds if stored."""
    return [*columns(info), *([BOUNDS] if info.has_bounds else [])]


def stem(info: DatasetInfo, name: str) -> str:
    """The name, without .npy, of the file that holds a column, or the bounds."""
    return NAMES_OF_SCHEMA_1[name] if info.schema_version == 1 else name
