"""A dataset of histories of one's own, of whatever learned somewhere else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.base.provenance import describe_machine
from fastad.envs.family import EnvSpec
from fastad.envs.registry import is_known, make_family, stored_options
from fastad.histories.columns import columns
from fastad.histories.own_writer import SHARD_BYTES, HistoryWriter
from fastad.histories.schema import MAX_SHARDS, DatasetInfo


def create(
    path: str | Path,
    *,
    num_histories: int,
    num_steps: int,
    tasks: Any = None,
    num_tasks: int | None = None,
    num_validation: int = 0,
    num_test: int = 0,
    env: str,
    env_options: Mapping[str, Any] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
    episode_length: int | None = None,
    fixed_length: bool | None = None,
    source: str = "own",
    source_options: Mapping[str, Any] | None = None,
    source_knows: str = "",
    policies: Sequence[str] = ("policy",),
    squash: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> HistoryWriter:
    """Begin a dataset of learning histories of one's own.

    >>> import fastad, gymnasium, numpy as np
    >>> with fastad.histories.create(
    ...     "data/own", env="three levers", num_histories=6, num_steps=20, num_tasks=8, num_test=2,
    ...     observation_space=gymnasium.spaces.Discrete(1), episode_length=1,
    ...     action_space=gymnasium.spaces.Discrete(3), policies=(), source="round robin",
    ... ) as writer:
    ...     for task in range(6):
    ...         lever = np.arange(20) % 3
    ...         writer.append(
    ...             task=task, observation=np.zeros(20, int), action=lever,
    ...             reward=np.where(lever == task % 3, 1.0, 0.0),
    ...             terminated=np.ones(20, bool), truncated=np.zeros(20, bool),
    ...         )
    >>> dataset = fastad.HistoryDataset("data/own")
    >>> dataset.num_histories, dataset.num_steps, round(float(dataset.returns().mean[0]), 2)
    (6, 20, 0.33)

    `fastad inspect data/own` shows it and `fastad train data/own --target sampled` learns from it.
    Rollouts act in the environment: with the name of one that `fastad envs` lists, with gym:ID or
    with package.module:callable there is one, and spaces and the length of episodes need not be
    given. Any other name is a label for what is nowhere here.

    Args:
        path: The dataset's folder, which must not exist or be empty.
        num_histories: Histories in all.
        num_steps: Of every history, or at most: what is longer has to be cut, what is shorter ends
            with `append(..., last=True)`. `fastad train --pack` learns from such as from others.
        tasks: (num_tasks, K) numbers, all rows distinct: those to train on, then for validation,
            then for tests.
        num_tasks: Instead of `tasks`, where there is nothing to tell of them but their numbers.
        num_validation: How many of the tasks are for validation.
        num_test: How many are for tests.
        env: Name of the environment, or a label.
        env_options: Its options.
        observation_space: Discrete, MultiDiscrete, Box, or a Dict or Tuple of them.
        action_space: Discrete, MultiDiscrete or a Box of float32 vectors.
        episode_length: No episode lasts longer.
        fixed_length: Whether every episode lasts exactly so long; false for a label.
        source: What learned, a label.
        source_options: Its options.
        source_knows: What it was told beyond what it experienced; shown beside all results.
        policies: The distributions that come with every step, some of policy (what the action was
            drawn from), expert_policy and final_policy; none if there are none.
        squash: Whether policies over a Box are squashed to it, not clipped; see `DiagonalGaussian`.
        resume: Go on with the dataset that is there, if there is one, of the same settings, behind
            the shards that are full: with the history numbered `num_histories` of the writer. What
            is not finished is kept then, to be resumed.
        overwrite: Delete the dataset that is there.

    Returns:
        Takes the histories; use it in a `with` block.

    Raises:
        UserError: For what is not possible; nothing has been written or deleted then.
    """
    options = dict(env_options or {})
    rows = _task_rows(tasks, num_tasks)
    given = {
        "observation_space": observation_space,
        "action_space": action_space,
        "episode_length": episode_length,
        "fixed_length": fixed_length,
    }
    spec = _spec_of_family(env, options, given, rows) if is_known(env) else _spec(env, given)
    num_train = len(rows) - num_validation - num_test
    if num_train < 1 or min(num_validation, num_test) < 0:
        raise UserError(
            f"num_validation={num_validation} and num_test={num_test} leave {num_train} of "
            f"{len(rows)} tasks to train on; leave at least 1"
        )
    info = DatasetInfo(
        env=env,
        env_kwargs=stored_options(env, options),
        observation_space=spec.observation_space,
        action_space=spec.action_space,
        squash=squash,
        source=source,
        source_kwargs=dict(source_options or {}),
        source_knows=source_knows,
        action_noise=0.0,
        policies=list(policies),
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        holdout="task",
        seed=0,
        num_histories=num_histories,
        num_steps=num_steps,
        num_shards=1,
        episode_length=spec.episode_length,
        fixed_length=spec.fixed_length,
        versions=describe_machine(),
    )
    info = replace(info, num_shards=num_shards_for(info))
    return HistoryWriter(Path(path), info, rows, resume=resume, overwrite=overwrite)


def _task_rows(tasks: Any, num_tasks: int | None) -> np.ndarray:
    """Tasks as (num_tasks, K), all distinct."""
    if (tasks is None) == (num_tasks is None):
        raise UserError("tasks and num_tasks: give one of the two")
    rows = np.arange(num_tasks or 0)[:, None] if tasks is None else np.asarray(tasks)
    if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "iuf":
        raise UserError(
            f"tasks has shape {rows.shape} and dtype {rows.dtype}; give rows of numbers, "
            "(num_tasks, K), at least one"
        )
    if not np.isfinite(rows).all():
        raise UserError("tasks holds numbers that are not finite; a row has to tell which task")
    if rows.dtype.kind == "u":
        rows = rows.astype(np.int64)
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        twice = rows[first[counts > 1][0]].tolist()
        raise UserError(f"tasks holds the row {twice} more than once; give every task once")
    return rows


def _spec(env: str, given: Mapping[str, Any]) -> EnvSpec:
    """What was given of an environment that is nowhere here."""
    missing = [name for name, value in given.items() if value is None and name != "fixed_length"]
    if missing:
        raise UserError(
            f"{missing[0]} is needed: env={env!r} is none that `fastad envs` lists, so that "
            "nothing else tells it"
        )
    return EnvSpec(**{**given, "fixed_length": bool(given["fixed_length"])})


def _spec_of_family(
    env: str, options: dict[str, Any], given: Mapping[str, Any], rows: np.ndarray
) -> EnvSpec:
    """That of an environment that is here, with which whatever was given has to agree."""
    family = make_family(env, **options)
    spec = family.spec()
    for name, value in given.items():
        if value is not None and value != getattr(spec, name):
            raise UserError(
                f"{name}={value} is not that of env={env!r}, {getattr(spec, name)}; leave it out, "
                "or give the environment another name"
            )
    family.make(torch.from_numpy(rows), torch.Generator())  # refuses tasks that are not possible
    return spec


def num_shards_for(info: DatasetInfo) -> int:
    """As few as fit into memory one by one."""
    sizes = (column.bytes_per_step for column in columns(info).values())
    per_shard = max(1, SHARD_BYTES // (sum(sizes) * info.num_steps))
    return min(-(-info.num_histories // per_shard), MAX_SHARDS)
