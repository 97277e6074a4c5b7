"""Which tasks are for training and which are kept unseen: a pure function of the seed."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastad.envs.base import Split
from fastad.envs.registry import check_options, env_class
from fastad.errors import UserError, unknown

Holdout = Literal["task", "cell"]


@dataclass(frozen=True)
class TaskSplit:
    """Tasks to learn from and tasks kept unseen; no row of one is a row of the other."""

    train: Tensor  # (M, K)
    test: Tensor  # (P, K)


def split_tasks(
    env: str,
    *,
    env_kwargs: dict[str, Any],
    num_train: int | None,
    num_test: int,
    holdout: Holdout = "task",
    seed: int,
) -> TaskSplit:
    """Choose disjoint train and test tasks of the environment called `env`.

    Args:
        env: A name in the registry.
        env_kwargs: The environment's own keyword arguments.
        num_train: Training tasks; None takes all that are left, where tasks can be enumerated.
        num_test: Test tasks; may be 0.
        holdout: "task" holds out single tasks. "cell" holds out grid cells: test tasks are made
            of these alone and training tasks of none of them. Where each task has one cell and
            each cell one task, as in Dark Room, the two are the same split.
        seed: 0 or more. Everything random follows from it.

    Returns:
        The split, on the CPU.

    Raises:
        UserError: If a name or an option is unknown, or there are not as many tasks.
    """
    check_options(env, env_kwargs)
    if holdout not in ("task", "cell"):
        raise unknown("holdout", holdout, ("task", "cell"))
    for field, value, least in (
        ("num_train", num_train, 1),
        ("num_test", num_test, 0),
        ("seed", seed, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{field}={value} is not possible; use {least} or more")

    tasks = env_class(env).enumerate_tasks(**env_kwargs)
    if tasks is None:
        split = _sample(env, env_kwargs, num_train, num_test, holdout, seed)
    else:
        split = _choose(env, tasks, env_kwargs, num_train, num_test, holdout, seed)
    distinct = [len(rows.unique(dim=0)) for rows in (split.train, split.test)]
    assert len(torch.cat((split.train, split.test)).unique(dim=0)) == sum(distinct), "not disjoint"
    return split


def _sample(
    env: str,
    env_kwargs: dict[str, Any],
    num_train: int | None,
    num_test: int,
    holdout: Holdout,
    seed: int,
) -> TaskSplit:
    """Draw the tasks of a family that cannot be enumerated, each split from its own stream."""
    if num_train is None:
        raise UserError(
            f"num_train is not given; {env} has infinitely many tasks: set num_train_tasks"
        )
    if holdout == "cell":
        raise UserError(f"holdout='cell' is not possible: {env} has no cells; use holdout='task'")

    def draw(num_tasks: int, split: Split) -> Tensor:
        generator = _generator(seed, split)
        return env_class(env).sample_tasks(
            num_tasks, split=split, generator=generator, **env_kwargs
        )

    return TaskSplit(draw(num_train, "train"), draw(num_test, "test"))


def _choose(
    env: str,
    tasks: Tensor,
    env_kwargs: dict[str, Any],
    num_train: int | None,
    num_test: int,
    holdout: Holdout,
    seed: int,
) -> TaskSplit:
    """Deal out the enumerated tasks (M, K)."""
    if num_test + (num_train or 0) > len(tasks):
        raise UserError(
            f"num_train={num_train} and num_test={num_test} do not fit: "
            f"{env} has {len(tasks)} tasks; ask for fewer"
        )
    generator = _generator(seed, "train")
    # Holding out tasks is holding out cells where every task is a cell of its own.
    cells: Tensor | None = torch.arange(len(tasks))[:, None]
    if holdout == "cell":
        cells = env_class(env).task_cells(tasks, **env_kwargs)
        if cells is None:
            raise UserError(f"holdout='cell' is not possible: {env} has no cells; use 'task'")
        cells = cells.unique(return_inverse=True)[1]
    assert cells is not None

    # Cells are held out in a random order, as few as make num_test test tasks: every one more
    # takes all tasks with that cell from training. A task becomes a test task with the last of
    # its cells and is lost to training with the first. In Key-to-Door k cells make k * k pairs,
    # so ceil(sqrt(num_test)) are held out.
    rank = torch.randperm(int(cells.max()) + 1, generator=generator)[cells]
    last, first = rank.amax(dim=1), rank.amin(dim=1)
    num_cells = int(last.sort().values[num_test - 1]) + 1 if num_test else 0
    test = _shuffled((last < num_cells).nonzero()[:, 0], generator)[:num_test]
    train = _shuffled((first >= num_cells).nonzero()[:, 0], generator)
    if len(train) < (num_train or 1):
        raise UserError(
            f"num_train={num_train} does not fit: with num_test={num_test} and "
            f"holdout={holdout!r}, {len(train)} of the {len(tasks)} tasks of {env} are left for "
            "training; ask for fewer"
        )
    return TaskSplit(tasks[train[:num_train]], tasks[test])


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def _generator(seed: int, split: Split) -> torch.Generator:
    """A stream of its own: a plain seed would repeat the numbers that draw rewards elsewhere."""
    key = np.random.SeedSequence([seed, ("train", "test").index(split)])
    return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))
