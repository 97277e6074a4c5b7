"""What a dataset of learning histories consists of: its description, columns and shards."""

import dataclasses
import reprlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from gymnasium import spaces

from fastad.acting.interact import NoiseLabels
from fastad.base.errors import UserError, unknown
from fastad.base.files import read_json
from fastad.envs.family import SPLITS, Split
from fastad.spaces import space_from_json, space_to_json

SCHEMA_VERSION = 1
MAX_SHARDS, MAX_COUNT = 100_000, 2**40  # beyond these a description is damaged
INFO_FILE = "dataset.json"
TASKS_FILE = "tasks.npy"
META_FILE = "meta.json"
# Fields that may differ between a dataset and its continuation: an upgrade makes no new dataset,
# nor do better words for what the source is told.
NOT_SETTINGS = ("versions", "tasks_digest", "source_knows")
# Every file of a shard: the columns that there may be, and meta.json.
SHARD_FILES = (
    META_FILE,
    "observations.npy",
    "actions.npy",
    "rewards.npy",
    "terminations.npy",
    "truncations.npy",
    "action_probs.npy",
)
LEARNER_IDS = "seeds"  # what meta.json has called them from the first
REBUILD = "restore the file from a backup, or delete the dataset and run `fastad collect` again"


@dataclass(frozen=True)
class DatasetInfo:
    """Everything about a dataset except its numbers; stored as dataset.json."""

    env: str
    env_kwargs: dict[str, Any]
    observation_space: spaces.Space[Any]  # Discrete, MultiDiscrete or Box
    action_space: spaces.Space[Any]  # Discrete, counted from 0
    source: str
    source_kwargs: dict[str, Any]
    source_knows: str  # privileged knowledge, "the movement rules, not the reward"; "" for none
    action_noise: float
    num_train: int  # the first rows of tasks.npy
    num_test: int  # the last ones
    holdout: str
    seed: int
    num_histories: int
    num_steps: int  # per history
    num_shards: int
    episode_length: int  # an episode never lasts longer
    fixed_length: bool  # whether every episode lasts exactly `episode_length` steps
    has_action_probs: bool = True
    num_validation: int = 0  # rows of tasks.npy between those of train and test tasks
    noise_labels: str = "clean"  # whether action_probs leave the action noise out, or "executed"
    versions: dict[str, Any] = field(default_factory=dict)
    # Of tasks.npy; "" in a description that is not stored yet, or was before there were digests.
    tasks_digest: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        lengths = ("num_histories", "num_steps", "num_shards", "episode_length")
        splits = ("num_train", "num_validation", "num_test")
        for name in lengths:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in (*splits, "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must not be negative")
        for name in (*lengths, *splits):
            limit = MAX_SHARDS if name == "num_shards" else MAX_COUNT
            if getattr(self, name) > limit:
                raise UserError(f"{name}={getattr(self, name)} exceeds {limit:,}; use fewer")
        if self.num_tasks < 1:
            raise UserError(
                "num_train=0, num_validation=0 and num_test=0 leave no task; set num_train to 1 "
                "or more"
            )
        if self.noise_labels not in get_args(NoiseLabels):
            raise unknown("noise_labels", self.noise_labels, get_args(NoiseLabels))
        if self.num_shards > self.num_histories:
            raise UserError(
                f"num_shards={self.num_shards} exceeds num_histories={self.num_histories}; "
                f"use num_shards={self.num_histories} or fewer"
            )
        if not isinstance(self.action_space, spaces.Discrete) or self.action_space.start != 0:
            raise UserError(
                f"action_space={self.action_space} is not supported; histories hold actions of a "
                "Discrete space that starts at 0"
            )

    @property
    def num_tasks(self) -> int:
        """Train, validation and test tasks together, the rows of tasks.npy."""
        return self.num_train + self.num_validation + self.num_test

    def task_rows(self, split: Split) -> slice:
        """The rows of tasks.npy that hold the tasks of one split."""
        counts = (self.num_train, self.num_validation, self.num_test)
        first = sum(counts[: SPLITS.index(split)])
        return slice(first, first + counts[SPLITS.index(split)])

    @property
    def num_actions(self) -> int:
        """`A`, the size of the action space."""
        assert isinstance(self.action_space, spaces.Discrete)
        return int(self.action_space.n)

    def to_json(self) -> dict[str, Any]:
        """The content of dataset.json as a JSON object.

        Raises:
            UserError: For a space that cannot be stored.
        """
        names = [f.name for f in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in names}
        for name in ("observation_space", "action_space"):
            values[name] = space_to_json(values[name])
        return {"schema_version": SCHEMA_VERSION, **values}

    @classmethod
    def from_json(
        cls, description: Mapping[str, Any], *, file: str | Path = INFO_FILE
    ) -> "DatasetInfo":
        """Rebuild the info from `to_json`.

        Args:
            description: The parsed JSON object.
            file: Named in error messages.

        Raises:
            UserError: For a newer schema version, and for unknown, missing or mistyped fields.
        """
        values = dict(description)
        check_version(values.pop("schema_version", None), file)
        values = _complete(cls, values, file, REBUILD)
        try:
            for name in ("observation_space", "action_space"):
                values[name] = space_from_json(values[name])
            return cls(**values)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error


class Column(NamedTuple):
    """One quantity per step of every history, stored as one file per shard."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of one step


def columns(info: DatasetInfo) -> dict[str, Column]:
    """The columns of every shard, in the order of `Transition`'s fields."""
    table = {
        "observations": _space_column(info.observation_space),
        "actions": _space_column(info.action_space),
        "rewards": Column(np.dtype(np.float32), ()),
        "terminations": Column(np.dtype(np.bool_), ()),
        "truncations": Column(np.dtype(np.bool_), ()),
    }
    if info.has_action_probs:
        table["action_probs"] = Column(np.dtype(np.float16), (info.num_actions,))
    return table


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

    def to_json(self) -> dict[str, Any]:
        """The content of meta.json."""
        stored = {LEARNER_IDS if k == "learner_ids" else k: v for k, v in vars(self).items()}
        return {"schema_version": SCHEMA_VERSION, **stored}

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
        check_version(values.pop("schema_version", None), file)
        if LEARNER_IDS in values:
            values["learner_ids"] = values.pop(LEARNER_IDS)
        return cls(**_complete(cls, values, file, rerun(shard)))


def rerun(shard: Path) -> str:
    """How to mend a damaged shard."""
    return f"delete {shard} and run `fastad collect` again to rebuild it"


def check_version(version: object, file: str | Path) -> None:
    """Refuse what this version of fastad cannot read.

    Raises:
        UserError: If the schema version is missing, malformed or newer.
    """
    if type(version) is not int or version < 1:
        raise UserError(f"{file}: schema_version={version!r} is no version number; {REBUILD}")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{file}: schema_version={version} is newer than {SCHEMA_VERSION}, the newest that "
            "this fastad reads; upgrade fastad"
        )


def _space_column(space: spaces.Space[Any]) -> Column:
    """The smallest unsigned integers that hold a discrete space; a Box as it is."""
    if isinstance(space, spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n - 1)
        return Column(np.promote_types(np.min_scalar_type(first), np.min_scalar_type(last)), ())
    if isinstance(space, spaces.MultiDiscrete):
        if np.any(space.start != 0):
            raise UserError(f"space {space} does not start at 0; fastad stores those that do")
        return Column(np.min_scalar_type(int(space.nvec.max()) - 1), space.nvec.shape)
    if isinstance(space, spaces.Box):
        return Column(np.dtype(space.dtype), space.shape)
    raise UserError(f"space {space} is not supported; use Discrete, MultiDiscrete or Box")


def _complete(kind: type, values: Mapping[str, Any], file: str | Path, fix: str) -> dict[str, Any]:
    """The fields of a JSON object, checked against those of the dataclass `kind`.

    What an older version did not write yet has its default: a new field orphans no file.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise UserError(f"{file}: {unknown('field', name, fields)}")
    complete = {}
    for name, expected in fields.items():
        value = values[name] if name in values else _default(expected)
        if value is dataclasses.MISSING:
            raise UserError(f"{file}: field {name!r} is missing; {fix}")
        if not _has_type(value, expected.type):
            shown = reprlib.repr(value)
            raise UserError(f"{file}: field {name!r} is {shown}, not {expected.type}; {fix}")
        complete[name] = value
    return complete


def _default(expected: "dataclasses.Field[Any]") -> Any:
    """A dataclass field's default; MISSING if it has none."""
    if expected.default_factory is not dataclasses.MISSING:
        return expected.default_factory()
    return expected.default


def _has_type(value: object, annotation: Any) -> bool:
    """Whether a JSON value fits a field's annotation; spaces are objects in JSON."""
    kind = typing.get_origin(annotation) or annotation
    allowed = {float: (int, float), spaces.Space: (dict,)}.get(kind, (kind,))
    # bool is a subclass of int, but true is no count.
    if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
        return False
    return not isinstance(value, list) or all(type(item) is int for item in value)
