"""Prompts: episodes of learning histories on the very tasks that a model is rolled out on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.evaluate.task_set import TaskSet
from fastad.histories.bounds import find_bounds
from fastad.histories.reader import HistoryDataset
from fastad.rollouts.prompt import Prompt


class _History(NamedTuple):
    """One learner's, of a rollout's task."""

    bounds: np.ndarray  # episode `e` is steps [bounds[e], bounds[e + 1])
    num_episodes: int  # that are complete
    read: Callable[[int, int], dict[str, Any]]  # the columns of steps [start, stop)


def load_prompt(
    where: Path | None, episodes: slice, tasks: TaskSet, device: torch.device
) -> Prompt:
    """The same episodes of a history for every rollout of a task set.

    Args:
        where: A dataset's folder, whose histories of a task are dealt out to its rollouts in turn;
            None: the dataset's source learns the tasks from scratch, as in `TaskSet.baseline`.
        episodes: Which of a history; counted from the shortest one's end where negative.
        tasks: What the model will be rolled out on.
        device: Of the model.

    Raises:
        UserError: If there is no history of one of the tasks, or not so many episodes.
    """
    histories = _of_source(tasks) if where is None else _of_dataset(where, tasks)
    count = min(history.num_episodes for history in histories)
    chosen = _chosen(episodes, count)
    columns = [h.read(int(h.bounds[chosen.start]), int(h.bounds[chosen.stop])) for h in histories]
    lengths = torch.tensor([len(column["reward"]) for column in columns])
    longest = int(lengths.max())
    steps = Transition(
        *(
            torch.stack([_padded(column[name], longest) for column in columns]).to(device)
            for name in Transition._fields
        )
    )
    owner = f"the source {tasks.info.source}" if where is None else where
    told = f"episodes {chosen.start}:{chosen.stop} of {owner}"
    return Prompt(steps, lengths.to(device), len(chosen), told)


def _of_source(tasks: TaskSet) -> list[_History]:
    """One history per rollout, of the dataset's source; of its only one on a task, the same."""
    run = tasks.histories()
    if run is None:
        raise UserError(
            f"prompt_from=source: the source {tasks.info.source} cannot be run again here; name a "
            "dataset that has histories of these tasks"
        )
    ended = (run.terminated | run.truncated).numpy()

    def history(row: int) -> _History:
        def read(start: int, stop: int) -> dict[str, Any]:
            return {k: v[row, start:stop] for k, v in run._asdict().items()}

        return _History(find_bounds(ended[row]), int(ended[row].sum()), read)

    num_rollouts = len(tasks.rows)
    return [history(rollout * len(ended) // num_rollouts) for rollout in range(num_rollouts)]


def _of_dataset(where: Path, tasks: TaskSet) -> list[_History]:
    """One history per rollout, of those that a dataset has of its task."""
    dataset = HistoryDataset(where)
    theirs, ours = dataset.info.family(where), tasks.info.family("the run")
    if theirs != ours:
        raise UserError(f"prompt_from={where} is of {theirs}, and the rollout of {ours}")
    rows = dataset.tasks[dataset.task_ids]

    def history(number: int) -> _History:
        def read(start: int, stop: int) -> dict[str, Any]:
            return dataset.read(number, start, stop)

        return _History(dataset.episode_bounds(number), dataset.num_episodes(number), read)

    chosen: list[_History] = []
    for task in tasks.tasks.numpy():
        found = np.flatnonzero((rows == task).all(axis=1))
        if len(found) == 0:
            raise UserError(
                f"prompt_from={where} has no history of the {tasks.split} task {task.tolist()}; "
                "name a dataset of rollouts on these tasks (rollout --save-histories), or take "
                "--prompt-from source"
            )
        chosen += [history(int(found[i % len(found)])) for i in range(tasks.repeats)]
    return chosen


def _chosen(episodes: slice, count: int) -> range:
    """Which of `count` episodes; some that are not there, or none, are refused."""
    ends = [end for end in (episodes.start, episodes.stop) if end is not None]
    chosen = range(count)[episodes]
    if not chosen or any(not -count <= end <= count for end in ends):
        first, last = ("" if end is None else end for end in (episodes.start, episodes.stop))
        raise UserError(
            f"prompt_episodes={first}:{last} are not there: the shortest history has {count} "
            f"episodes; choose some of them, such as 0:{min(count, 5)}"
        )
    return chosen


def _padded(column: Any, length: int) -> Tensor:
    """A column (t, ...) behind zeros, (length, ...), with integers as environments have them."""
    values = torch.tensor(np.asarray(column))
    if not (values.is_floating_point() or values.dtype == torch.bool):
        values = values.long()
    padding = values.new_zeros((length - len(values), *values.shape[1:]))
    return torch.cat((padding, values))
