"""What a dataset holds, in figures."""

from typing import Any, NamedTuple

import numpy as np
import torch

from fastad.histories.histories import Histories
from fastad.histories.labels import label_words

AVERAGED_HISTORIES = 1024  # at most, for `learned`


class Learned(NamedTuple):
    """How far the source came, over the same tasks."""

    first: float  # mean return of the first episode
    last: float
    optimum: float | None  # None where unknown


def learned(dataset: Histories) -> Learned | None:
    """How far the source came in its histories; None if none holds a complete episode."""
    info = dataset.info
    # Histories visit the tasks in turn: whole rounds show every task equally often.
    rounds = max(1, AVERAGED_HISTORIES // info.num_train)
    histories = np.arange(min(dataset.num_histories, rounds * info.num_train, AVERAGED_HISTORIES))
    returns = dataset.returns(histories, max_histories=len(histories)).mean
    if len(returns) == 0:
        return None
    tasks = torch.from_numpy(dataset.tasks[dataset.task_ids[histories]])
    env = info.family(dataset.path).make(tasks, torch.Generator())
    optimal = env.optimal_return()
    mean = None if optimal is None else optimal.mean().item()
    return Learned(float(returns[0]), float(returns[-1]), mean)


def summarize(dataset: Histories) -> dict[str, Any]:
    """How much of it there is, and how its source learned, as plain JSON values."""
    info = dataset.info
    curve = dataset.returns()
    files = [file for file in (dataset.path, *dataset.path.rglob("*")) if file.is_file()]
    return {
        "path": str(dataset.path),
        **info.to_json(),
        # Without the defaults.
        "env_kwargs": info.env_kwargs,
        "source_kwargs": info.source_kwargs,
        "label_words": label_words(info),
        "complete": dataset.complete,
        "num_shards_complete": dataset.num_shards_complete,
        "num_histories_available": dataset.num_histories,
        "num_histories_train": len(dataset.train_histories),
        "num_steps_available": dataset.num_steps,
        "bytes": sum(file.stat().st_size for file in files),
        "source_returns": [round(value, 6) for value in curve.mean.tolist()],
        "source_returns_histories": curve.num_histories,
    }
