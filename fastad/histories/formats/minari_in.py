"""A dataset of Minari, of fastad's or of others, as a dataset of fastad."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastad.actions import distribution_over
from fastad.base.errors import UserError
from fastad.base.progress import Report
from fastad.histories.columns import columns
from fastad.histories.formats.described import KEY, restored, writer_of
from fastad.histories.formats.minari_names import (
    env_name,
    find_data,
    import_minari,
    read_metadata,
)
from fastad.histories.formats.minari_storage import open_storage, read_episodes
from fastad.histories.formats.nested import from_nested
from fastad.histories.own import create
from fastad.histories.own_writer import HistoryWriter
from fastad.histories.reader import HistoryDataset
from fastad.histories.schema import POLICIES
from fastad.spaces import is_packed, space_to_json

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grouping:
    """What a user says of episodes of others.

    Attributes:
        history: Key of their metadata that tells which history an episode is of; None: "history"
            where all have it, else all are one, in order.
        task: The same of tasks: None: "task" where all have it, else all are of one.
        env: The environment's name; None: a label, its Gymnasium ID.
        num_test: Tasks, the last ones, that are held out.
    """

    history: str | None = None
    task: str | None = None
    env: str | None = None
    num_test: int = 0


@dataclass(frozen=True)
class _Episode:
    number: int  # in Minari
    steps: int
    told: dict[str, Any]


def read_minari(
    word: str, path: Path, grouping: Grouping, *, progress: Report, overwrite: bool
) -> HistoryDataset:
    """Write the dataset of fastad that a dataset of Minari is.

    One that `write_minari` wrote comes back as it was, and `grouping` must say nothing.

    Args:
        word: ID or folder.
        path: Of the dataset to write.
        grouping: Of episodes of others.
        progress: Told the steps written and their total.
        overwrite: Replace the dataset at `path`.

    Raises:
        UserError: If it is damaged or cannot be converted, by name. No dataset is left then.
    """
    import_minari()
    data, where = find_data(word), f"source={word}"
    metadata = read_metadata(data, where)
    storage, told = open_storage(data, metadata, where)
    if not told:
        raise UserError(f"{where} holds no episodes; record some first")
    episodes = [_Episode(i, int(entry["total_steps"]), entry) for i, entry in enumerate(told)]
    if KEY in metadata:
        writer, histories = _as_it_was(metadata[KEY], episodes, path, grouping, where, overwrite)
    else:
        writer, histories = _of_others(
            storage, episodes, env_name(metadata), path, grouping, where, overwrite
        )
    _write(storage, writer, histories, where, progress)
    return HistoryDataset(path)


_History = tuple[int, int | None, list[_Episode]]  # task, learner, episodes in order


def _as_it_was(
    text: object, episodes: list[_Episode], path: Path, grouping: Grouping, where: str,
    overwrite: bool,
) -> tuple[HistoryWriter, list[_History]]:  # fmt: skip
    """Of what fastad wrote."""
    described = restored(text, where)
    info = described.info
    if grouping != Grouping():
        raise UserError(
            f"{where} was written by fastad and tells history, task and environment itself; leave "
            "--history-key, --task-key, --env and --num-test-tasks out"
        )
    groups: dict[int, list[_Episode]] = {}
    for episode in episodes:
        for name in ("history", "task", "learner", "episode"):
            if not isinstance(episode.told.get(name), int | np.integer):
                raise UserError(
                    f"{where}: episode {episode.number} does not tell its {name}; convert the "
                    "dataset again"
                )
        groups.setdefault(int(episode.told["history"]), []).append(episode)
    histories: list[_History] = []
    for number in sorted(groups):
        parts = sorted(groups[number], key=lambda episode: int(episode.told["episode"]))
        if [int(part.told["episode"]) for part in parts] != list(range(len(parts))):
            raise UserError(f"{where}: episodes of history {number} are missing; convert it again")
        told = parts[0].told
        histories.append((int(told["task"]), int(told["learner"]), parts))
    if len(histories) != info.num_histories:
        raise UserError(
            f"{where} holds {len(histories)} histories, and was written with {info.num_histories}; "
            "convert the whole dataset"
        )
    described.check_steps(sum(episode.steps for episode in episodes), where)
    return writer_of(path, info, described.tasks, overwrite=overwrite), histories


def _of_others(
    storage: Any, episodes: list[_Episode], label: str | None, path: Path, grouping: Grouping,
    where: str, overwrite: bool,
) -> tuple[HistoryWriter, list[_History]]:  # fmt: skip
    """Of what somebody else recorded."""
    spaces = storage.observation_space, storage.action_space
    for name, space in zip(("observation_space", "action_space"), spaces, strict=True):
        try:
            space_to_json(space)
            if name == "action_space":
                distribution_over(space)
        except UserError as error:
            raise UserError(f"{where} cannot be converted, {name}: {error}") from error
    grouped = _grouped(episodes, grouping.history, "history", "--history-key", where)
    of_task = _grouped(episodes, grouping.task, "task", "--task-key", where)
    rows = sorted(set(of_task.values()))
    histories: list[_History] = []
    for key in dict.fromkeys(grouped.values()):
        parts = [episode for episode in episodes if grouped[episode.number] == key]
        tasks = {of_task[part.number] for part in parts}
        if len(tasks) > 1:
            raise UserError(
                f"{where}: history {key[0]:g} has episodes of {len(tasks)} tasks, and a history is "
                "of one; name another key with --history-key"
            )
        histories.append((rows.index(tasks.pop()), None, parts))
    lengths = {episode.steps for episode in episodes}
    is_label = grouping.env is None
    policies = _policies(storage, where)
    writer = create(
        path,
        num_histories=len(histories),
        num_steps=max(sum(part.steps for part in parts) for _, _, parts in histories),
        tasks=np.asarray(rows),
        num_test=grouping.num_test,
        env=grouping.env or (label or "minari").replace(":", "-"),
        observation_space=spaces[0],
        action_space=spaces[1],
        episode_length=max(lengths) if is_label else None,
        fixed_length=len(lengths) == 1 if is_label else None,
        source="minari",
        policies=policies,
        overwrite=overwrite,
    )
    if not policies:
        _logger.info(
            f"{where} has no policies: train on the actions taken, fastad train {path} "
            "--target sampled"
        )
    return writer, histories


def _grouped(
    episodes: list[_Episode], key: str | None, default: str, flag: str, where: str
) -> dict[int, tuple[float, ...]]:
    """The numbers that stand under a key of each episode's metadata, or one for all."""
    wanted = key or default
    having = [episode for episode in episodes if wanted in episode.told]
    if len(having) < len(episodes):
        if key is not None:
            raise UserError(
                f"{where}: {len(episodes) - len(having)} of {len(episodes)} episodes have no "
                f"{key!r} in their metadata; they have {', '.join(sorted(episodes[0].told))}: name "
                f"another with {flag}, or leave it out"
            )
        return {episode.number: (0.0,) for episode in episodes}
    found = {}
    for episode in episodes:
        values = np.atleast_1d(np.asarray(episode.told[wanted]))
        if values.dtype.kind not in "iufb" or values.ndim != 1 or not np.isfinite(values).all():
            raise UserError(
                f"{where}: {wanted!r} of episode {episode.number} is no number, nor a list of "
                f"them; name another key with {flag}"
            )
        found[episode.number] = tuple(float(value) for value in values)
    if len({len(values) for values in found.values()}) > 1:
        raise UserError(f"{where}: {wanted!r} has more numbers in some episodes than in others")
    return found


def _policies(storage: Any, where: str) -> list[str]:
    """The distributions that episodes of others bring along, under the names that fastad has."""
    (first,) = read_episodes(storage, [0], where)
    size, infos = distribution_over(storage.action_space).num_params, first.get("infos") or {}
    found = [
        name for name in POLICIES
        if name in infos and np.shape(infos[name])[1:] == (size,)
    ]  # fmt: skip
    dropped = sorted(infos.keys() - set(found))
    if dropped:
        _logger.info(f"{where}: infos that fastad has no column for are left: {', '.join(dropped)}")
    return found


def _write(
    storage: Any, writer: HistoryWriter, histories: list[_History], where: str, progress: Report
) -> None:
    info = writer.info
    done, total = 0, sum(part.steps for _, _, parts in histories for part in parts)
    progress(0, total)
    with writer:
        for task, learner, parts in histories:
            read = read_episodes(storage, [part.number for part in parts], where)
            for part, episode in zip(parts, read, strict=True):
                is_last = part is parts[-1]
                try:
                    steps = _columns(episode, part.steps, info, where)
                    if not is_last or (info.fixed_length and part.steps == info.episode_length):
                        # What others left open ends here all the same: another one follows, or
                        # all of them last just so long.
                        ended = steps["terminated"][-1] | steps["truncated"][-1]
                        steps["truncated"][-1] |= not ended
                    writer.append(task=task, last=is_last, learner=learner, **steps)
                except UserError as error:
                    raise UserError(f"{where}: episode {part.number}: {error}") from error
                done += part.steps
                progress(done, total)


def _columns(
    episode: dict[str, Any], num_steps: int, info: Any, where: str
) -> dict[str, np.ndarray]:
    """An episode as columns (n, ...)."""
    seen, infos = episode["observations"], episode.get("infos") or {}
    if is_packed(info.observation_space):
        seen = from_nested(info.observation_space, seen, where)
    given = {
        "observation": seen,
        "action": episode["actions"],
        "reward": episode["rewards"],
        "terminated": episode["terminations"],
        "truncated": episode["truncations"],
        **{name: infos[name] for name in info.policies if name in infos},
    }
    found = {}
    for name, column in columns(info).items():
        if name not in given:
            raise UserError(f"infos lack {name!r}, which other episodes have; record them alike")
        values = np.asarray(given[name])
        if values.ndim == 0 or len(values) < num_steps:
            raise UserError(f"{name} has shape {values.shape} at {num_steps} steps; it is damaged")
        values = values[:num_steps]
        if column.shape == () and values.shape == (num_steps, 1):
            values = values[:, 0]
        if column.dtype.kind == "b" and (values.dtype.kind != "b" or values.ndim != 1):
            raise UserError(f"{name} is {values.dtype} of shape {values.shape}; it is damaged")
        if column.dtype.kind == "f" and values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what is not finite then is refused
                values = values.astype(column.dtype)
        found[name] = np.array(values)
    return found
