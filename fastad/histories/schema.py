"""What a dataset of learning histories is: its description, dataset.json."""

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from gymnasium import spaces

from fastad.acting.interact import NoiseLabels
from fastad.actions import ActionDistribution, distribution_over
from fastad.base.errors import UserError, unknown
from fastad.base.files import as_json
from fastad.base.trust import Call, check_calls
from fastad.envs.family import SPLITS, Split, TaskFamily
from fastad.envs.gym_tasks import SEEDS
from fastad.envs.registry import env_options, is_outside, make_family, runs_code
from fastad.histories.fields import REBUILD, SCHEMA_VERSION, check_version, complete
from fastad.sources.registry import (
    FORMER_DEFAULTS,
    code_within,
    is_own_class,
    source_options,
)
from fastad.spaces import space_from_json, space_to_json

MAX_SHARDS, MAX_COUNT = 100_000, 2**40  # beyond these a description is damaged
INFO_FILE = "dataset.json"
TASKS_FILE = "tasks.npy"
META_FILE = "meta.json"
# Fields that may differ between a dataset and its continuation: an upgrade makes no new dataset,
# nor do better words for what the source is told.
NOT_SETTINGS = ("schema_version", "versions", "tasks_digest", "source_knows")
# Distributions that may be stored with every step: the one that its action was drawn from; what an
# expert that knows the task would do; what the same learner would do at the end of its history, or
# `look_ahead` episodes later.
POLICIES = ("policy", "expert_policy", "final_policy")
LABELS = {"expert_policy": "expert", "final_policy": "final"}  # as `fastad collect` calls them


@dataclass(frozen=True)
class DatasetInfo:
    """Everything about a dataset except its numbers; stored as dataset.json."""

    env: str
    env_kwargs: dict[str, Any]
    observation_space: spaces.Space[Any]  # Discrete, MultiDiscrete or Box
    action_space: spaces.Space[Any]  # see `distribution_over`
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
    policies: list[str] = field(default_factory=lambda: ["policy"])  # stored ones of `POLICIES`
    num_validation: int = 0  # rows of tasks.npy between those of train and test tasks
    noise_labels: str = "clean"  # whether `policy` leaves the action noise out, or "executed"
    look_ahead: int = 0  # episodes that `final_policy` is ahead; 0 for the end of the history
    squash: bool = False  # whether actions in a box were squashed to it, see `DiagonalGaussian`
    versions: dict[str, Any] = field(default_factory=dict)
    # Of tasks.npy; "" in a description that is not stored yet, or was before there were digests.
    tasks_digest: str = field(default="", compare=False)
    schema_version: int = field(default=SCHEMA_VERSION, compare=False)  # that its files are of

    def __post_init__(self) -> None:
        lengths = ("num_histories", "num_steps", "num_shards", "episode_length")
        splits = ("num_train", "num_validation", "num_test")
        for name in lengths:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in (*splits, "seed", "look_ahead"):
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
        if self.policies != [name for name in POLICIES if name in self.policies]:
            raise UserError(
                f"policies={self.policies} must be some of {', '.join(POLICIES)}, in this order"
            )
        if self.look_ahead and "final_policy" not in self.policies:
            raise UserError(f"look_ahead={self.look_ahead} needs final_policy among the policies")
        distribution_over(self.action_space, squash=self.squash)

    @property
    def actions(self) -> ActionDistribution:
        """What policies are, of these actions."""
        return distribution_over(self.action_space, squash=self.squash)

    @property
    def has_bounds(self) -> bool:
        """Whether complete shards say where episodes end: schema 1 had to look for it."""
        return not self.fixed_length and self.schema_version > 1

    @property
    def labels(self) -> tuple[str, ...]:
        """What is stored of `LABELS`."""
        return tuple(LABELS[name] for name in self.policies if name in LABELS)

    @property
    def num_tasks(self) -> int:
        """Train, validation and test tasks together, the rows of tasks.npy."""
        return self.num_train + self.num_validation + self.num_test

    def task_rows(self, split: Split) -> slice:
        """The rows of tasks.npy that hold the tasks of one split."""
        counts = (self.num_train, self.num_validation, self.num_test)
        first = sum(counts[: SPLITS.index(split)])
        return slice(first, first + counts[SPLITS.index(split)])

    def settings(self) -> dict[str, Any]:
        """What makes a dataset what it is, as plain JSON, to be compared with that of another.

        Neither naming a default nor an upgrade that adds an option makes another dataset.
        """
        settings: dict[str, Any] = as_json(self.to_json())
        for name in NOT_SETTINGS:
            del settings[name]
        return settings

    def to_json(self) -> dict[str, Any]:
        """The content of dataset.json as a JSON object.

        Options that were not given are there with their defaults, which may be others one day.

        Raises:
            UserError: For a space that cannot be stored.
        """
        names = [f.name for f in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in ("schema_version", *names)}
        for name in ("observation_space", "action_space"):
            values[name] = space_to_json(values[name])
        for kwargs, defaults in self._defaults().items():
            values[kwargs] = as_json(defaults) | values[kwargs]
        return values

    def _defaults(self) -> dict[str, dict[str, Any]]:
        """Of all options, where they are known: of somebody's own environment they are not."""
        found: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(UserError):
            found["env_kwargs"] = env_options(self.env)
        with contextlib.suppress(UserError):
            if not is_own_class(self.source):  # whose options only its code knows
                found["source_kwargs"] = source_options(self.source)
        return found

    def calls(self) -> list[Call]:
        """The code that is named here and is neither fastad's nor of a library that it uses."""
        stored, calls = as_json(self.to_json()), []
        if runs_code(self.env):
            calls.append(Call("env", (self.env,), stored["env_kwargs"]))
        names = code_within(self.source, self.source_kwargs)
        if names:
            calls.append(Call("source", tuple(names), stored["source_kwargs"]))
        return calls

    def family(self, where: str | Path) -> TaskFamily:
        """The family of the environments.

        Args:
            where: The dataset or run that says so.

        Raises:
            UserError: If there is none, or it is code that the user does not know of, see
                `fastad.base.trust`.
        """
        check_calls(self.calls(), str(where))
        return make_family(self.env, **self.env_kwargs)

    @classmethod
    def from_json(
        cls, description: Mapping[str, Any], *, file: str | Path = INFO_FILE
    ) -> "DatasetInfo":
        """Rebuild the info from `to_json`; options have what differs from the present defaults.

        Args:
            description: The parsed JSON object.
            file: Named in error messages.

        Raises:
            UserError: For a newer schema version, and for unknown, missing or mistyped fields.
        """
        values = dict(description)
        version = check_version(values.get("schema_version"), file)
        if version == 1:
            had_policy = values.pop("has_action_probs", True)
            if type(had_policy) is not bool:
                raise UserError(f"{file}: field 'has_action_probs' is {had_policy!r}; {REBUILD}")
            values["policies"] = ["policy"] if had_policy else []
        values = complete(cls, values, file, REBUILD)
        try:
            for name in ("observation_space", "action_space"):
                values[name] = space_from_json(values[name])
            info = cls(**values)
            if is_outside(info.env) and isinstance(info.env_kwargs.get("tasks"), str):
                _check_told(info.env_kwargs["tasks"])
            former = FORMER_DEFAULTS.get(info.source, {})
            values["source_kwargs"] = former | info.source_kwargs
            given: dict[str, Any] = {
                name: {key: v for key, v in values[name].items() if defaults.get(key, ...) != v}
                for name, defaults in as_json(info._defaults()).items()
            }
            return dataclasses.replace(info, **given)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error


def _check_told(tasks: str) -> None:
    """Refuse tasks that lie in a file elsewhere: what it held was stored when it was read."""
    if tasks != SEEDS:
        raise UserError(f"env_kwargs: tasks={tasks!r} is a file elsewhere; {REBUILD}")
