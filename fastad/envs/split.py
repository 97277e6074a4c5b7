"""Which tasks are for training and which are kept unseen: a pure function of the seed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.envs.family import SPLITS, Split, TaskFamily

Holdout = Literal["task", "cell"]


@dataclass(frozen=True)
class TaskSplit:
    """Tasks to learn from, to look at while learning, and to report.

    No row of one is a row of another.
    """

    train: Tensor  # (M, K)
    validation: Tensor  # (V, K)
    test: Tensor  # (P, K)

    @property
    def all(self) -> Tensor:
        """(M + V + P, K), in the order of `SPLITS`."""
        return torch.cat((self.train, self.validation, self.test))


@dataclass(frozen=True)
class _Counts:
    """How many tasks each split shall have; `train` None is all that are left."""

    train: int | None
    validation: int
    test: int

    def __str__(self) -> str:
        held_out = f"num_validation_tasks={self.validation} and num_test_tasks={self.test}"
        return held_out if self.train is None else f"num_train_tasks={self.train} with {held_out}"


def split_tasks(
    family: TaskFamily,
    *,
    num_train: int | None,
    num_test: int,
    num_validation: int = 0,
    holdout: Holdout = "task",
    seed: int,
) -> TaskSplit:
    """Choose disjoint train, validation and test tasks of a family.

    The test tasks do not depend on the numbers of the others.

    Args:
        family: Whose tasks.
        num_train: Training tasks; None takes all that are left, where tasks can be listed.
        num_test: Test tasks; may be 0.
        num_validation: Validation tasks; may be 0.
        holdout: "task" holds out single tasks. "cell" holds out grid cells: test tasks are made
            of these alone, validation tasks of others, and training tasks of none of them. Where
            each task has one cell and each cell one task, as in Dark Room, the two are the same
            split.
        seed: 0 or more. Everything random follows from it.

    Returns:
        The split, on the CPU.

    Raises:
        UserError: If a setting is not possible, or there are not as many tasks.
    """
    if holdout not in ("task", "cell"):
        raise unknown("holdout", holdout, ("task", "cell"))
    for field, value, least in (
        ("num_train_tasks", num_train, 1),
        ("num_validation_tasks", num_validation, 0),
        ("num_test_tasks", num_test, 0),
        ("seed", seed, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{field}={value} is not possible; use {least} or more")

    counts = _Counts(num_train, num_validation, num_test)
    tasks = family.tasks()
    if tasks is None:
        split = _sample(family, counts, holdout, seed)
    else:
        split = _choose(family, tasks, counts, holdout, seed)
    distinct = [len(rows.unique(dim=0)) for rows in (split.train, split.validation, split.test)]
    assert len(split.all.unique(dim=0)) == sum(distinct), "not disjoint"
    return split


def _sample(family: TaskFamily, counts: _Counts, holdout: Holdout, seed: int) -> TaskSplit:
    """Draw the tasks of a family that cannot list them, each split from its own stream."""
    name = family.name
    if counts.train is None:
        raise UserError(
            f"num_train_tasks is not given, and {name} has infinitely many tasks; say how many"
        )
    if holdout == "cell":
        raise UserError(f"holdout='cell' is not possible: {name} has no cells; use holdout='task'")
    sizes = (counts.train, counts.validation, counts.test)
    return TaskSplit(
        *(
            family.sample(size, split, _generator(seed, split))
            for size, split in zip(sizes, SPLITS, strict=True)
        )
    )


def _choose(
    family: TaskFamily, tasks: Tensor, counts: _Counts, holdout: Holdout, seed: int
) -> TaskSplit:
    """Deal out the listed tasks (M, K)."""
    name = family.name
    if counts.test + counts.validation + (counts.train or 0) > len(tasks):
        raise UserError(f"{counts} do not fit: {name} has {len(tasks)} tasks; ask for fewer")
    generator = _generator(seed, "train")
    # Holding out tasks is holding out cells where every task is a cell of its own.
    cells: Tensor | None = torch.arange(len(tasks))[:, None]
    if holdout == "cell":
        cells = family.cells(tasks)
        if cells is None:
            raise UserError(f"holdout='cell' is not possible: {name} has no cells; use 'task'")
        cells = cells.unique(return_inverse=True)[1]
    assert cells is not None

    # Cells are held out in a random order, first for the test, then for the validation.
    rank = torch.randperm(int(cells.max()) + 1, generator=generator)[cells]
    test, after_test = _made_of_next(rank, 0, counts.test)
    validation, after_both = _made_of_next(rank, after_test, counts.validation)
    train = (rank.amin(dim=1) >= after_both).nonzero()[:, 0]
    if len(validation) < counts.validation or len(train) < (counts.train or 1):
        raise UserError(
            f"{counts} do not fit: with holdout={holdout!r}, {len(train)} of the {len(tasks)} "
            f"tasks of {name} are left for training and {len(validation)} for validation; ask for "
            "fewer"
        )
    test = _shuffled(test, generator)[: counts.test]
    train = _shuffled(train, generator)[: counts.train]
    validation = _shuffled(validation, generator)[: counts.validation]
    return TaskSplit(tasks[train], tasks[validation], tasks[test])


def _made_of_next(rank: Tensor, begin: int, num_tasks: int) -> tuple[Tensor, int]:
    """The tasks made of the cells ranked from `begin` on alone, as few cells as give `num_tasks`.

    Every cell held out takes all tasks with it from training, whether they become held-out tasks
    or are lost. In Key-to-Door k cells make k * k pairs, so ceil(sqrt(num_tasks)) are held out.

    Args:
        rank: (M, cells of a task), the place of each in the order of holding out.
        begin: Cells ranked before are taken.
        num_tasks: Tasks wanted; there may be fewer.

    Returns:
        Indices of the tasks, ascending, and the rank after the last cell taken.
    """
    free = rank.amin(dim=1) >= begin
    last = rank.amax(dim=1)
    needed = last[free].sort().values[:num_tasks]
    end = int(needed[-1]) + 1 if len(needed) else begin
    return (free & (last < end)).nonzero()[:, 0], end


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def _generator(seed: int, split: Split) -> torch.Generator:
    """A stream of its own: a plain seed would repeat the numbers that draw rewards elsewhere."""
    key = np.random.SeedSequence([seed, ("train", "test", "validation").index(split)])
    return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))
