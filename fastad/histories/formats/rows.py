"""Histories as rows, one per step: what tables of Parquet and pandas have in common."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastad.base.errors import UserError
from fastad.base.progress import Report
from fastad.histories.columns import columns
from fastad.histories.formats.described import Described, writer_of
from fastad.histories.formats.nested import from_leaves
from fastad.histories.histories import Histories
from fastad.histories.reader import HistoryDataset
from fastad.histories.schema import DatasetInfo
from fastad.spaces import is_packed, leaves

INDEX = ("history", "task", "learner", "episode", "step")  # of each row, before what happened


class Quantity(NamedTuple):
    """What a table has of one column of the dataset, or of one leaf of packed observations."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def quantities(info: DatasetInfo) -> list[Quantity]:
    """Everything that rows have besides `INDEX`, in order."""
    found = []
    for name, column in columns(info).items():
        if name == "observation" and is_packed(info.observation_space):
            parts = leaves(info.observation_space)
            found += [Quantity(f"{name}.{leaf.name}", leaf.dtype, leaf.shape) for leaf in parts]
        else:
            found.append(Quantity(name, column.dtype, column.shape))
    return found


def read_rows(dataset: Histories, history: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Steps [start, stop) of a history as rows: `INDEX` and `quantities`, (n, *shape) each.

    `episode` counts within the history, `step` within its episode; `task` is a row of the tasks.
    """
    bounds, time = dataset.episode_bounds(history), np.arange(start, stop)
    episode = np.searchsorted(bounds, time, side="right") - 1
    learners = np.asarray(dataset.learner_ids)
    index = (
        np.full(len(time), history),
        np.full(len(time), dataset.task_ids[history], np.int64),
        np.full(len(time), learners[history], learners.dtype),
        episode,
        time - bounds[episode],
    )
    steps = dataset.read(history, start, stop)
    found = dict(zip(INDEX, index, strict=True))
    for name, values in steps.items():
        if name == "observation" and is_packed(dataset.info.observation_space):
            parts = leaves(dataset.info.observation_space)
            found |= {f"{name}.{leaf.name}": leaf.read(values) for leaf in parts}
        else:
            found[name] = values
    return found


def write_rows(
    path: Path,
    described: Described,
    blocks: Iterable[Mapping[str, np.ndarray]],
    *,
    where: str,
    num_rows: int,
    progress: Report,
    overwrite: bool,
) -> HistoryDataset:
    """Write the dataset that rows are of.

    Args:
        path: Of the dataset.
        described: The dataset that the rows came from.
        blocks: Rows as `read_rows` gives them, all of one history after all of another.
        where: Begins errors.
        num_rows: Of all blocks.
        progress: Told the steps written.
        overwrite: Replace the dataset at `path`.

    Raises:
        UserError: If rows are missing, out of order, or do not fit. No dataset is left then.
    """
    info = described.info
    described.check_steps(num_rows, where)
    done = 0
    progress(0, num_rows)
    with writer_of(path, info, described.tasks, overwrite=overwrite) as writer:
        for part, is_last in _with_last(_runs(blocks, where)):
            steps = _as_columns(info, part, where)
            learner, task = int(part["learner"][0]), int(part["task"][0])
            try:
                writer.append(task=task, last=is_last, learner=learner, **steps)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            done += len(part["history"])
            progress(done, num_rows)
    return HistoryDataset(path)


def with_histories(info: DatasetInfo, num_histories: int) -> DatasetInfo:
    """The info of a part of the histories."""
    if num_histories == info.num_histories:
        return info
    shards = max(1, min(num_histories, info.num_shards))
    return dataclasses.replace(info, num_histories=num_histories, num_shards=shards)


def _as_columns(
    info: DatasetInfo, rows: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """Rows as the dataset's columns."""
    steps = {name: rows[name] for name in columns(info) if name in rows}
    if is_packed(info.observation_space):
        parts = [rows[f"observation.{leaf.name}"] for leaf in leaves(info.observation_space)]
        steps["observation"] = from_leaves(info.observation_space, parts, where)
    return steps


def _runs(
    blocks: Iterable[Mapping[str, np.ndarray]], where: str
) -> Iterator[dict[str, np.ndarray]]:
    """Parts of blocks that are of one history each, held to their order."""
    before: tuple[int, ...] | None = None
    for block in blocks:
        ended = block["terminated"] | block["truncated"]
        index = np.stack(
            [*(block[name] for name in ("history", "episode", "step")), ended], axis=1
        ).astype(np.int64)
        if len(index) == 0:
            continue
        cuts = np.flatnonzero(np.diff(index[:, 0])) + 1
        for start, stop in zip([0, *cuts], [*cuts, len(index)], strict=True):
            part = {name: values[start:stop] for name, values in block.items()}
            before = _check_order(index[start:stop], part["task"], before, where)
            yield part


def _check_order(
    index: np.ndarray, task: np.ndarray, before: tuple[int, ...] | None, where: str
) -> tuple[int, ...]:
    """Refuse rows that are not sorted, or of two tasks; returns the last one's place."""
    history, episode, step, ended = index.T
    goes_on = (np.diff(episode) == 0) & (np.diff(step) == 1) & (ended[:-1] == 0)
    begins = (np.diff(episode) == 1) & (step[1:] == 0) & (ended[:-1] == 1)
    follows = goes_on | begins
    first = tuple(index[0, :3].tolist())
    if before is not None and before[0] == first[0]:
        number, of_episode, at, was_last = before
        is_next = first == (number, of_episode + was_last, 0 if was_last else at + 1)
    else:
        is_next = first[1:] == (0, 0) and (before is None or first[0] > before[0])
    if not (is_next and follows.all()):
        raise UserError(
            f"{where}: rows of history {int(history[0])} are missing or out of order; have every "
            "step of every history, sorted by history, episode and step"
        )
    if (task != task[0]).any():
        raise UserError(f"{where}: history {int(history[0])} is of two tasks; a history has one")
    return tuple(index[-1].tolist())


def _with_last(
    parts: Iterator[dict[str, np.ndarray]],
) -> Iterator[tuple[dict[str, np.ndarray], bool]]:
    """Each part, and whether its history ends with it."""
    held = next(parts, None)
    while held is not None:
        following = next(parts, None)
        is_last = following is None or following["history"][0] != held["history"][0]
        yield held, is_last
        held = following
