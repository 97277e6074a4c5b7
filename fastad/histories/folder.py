"""Taking possession of the folder that a dataset goes to, and of nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fastad.base.config import differences
from fastad.base.errors import UserError
from fastad.base.files import as_json, temporary
from fastad.base.locks import LOCK_FILES, folder_lock
from fastad.base.possession import (
    delete_own,
    is_marked,
    marker_name,
    refuse_strangers,
    strangers,
)
from fastad.base.trust import remember
from fastad.envs.family import SPLITS
from fastad.executors.lease import LEASE_FILE, revoke
from fastad.histories.columns import SHARD_FILES
from fastad.histories.fields import REBUILD
from fastad.histories.meta import shard_path
from fastad.histories.reader import load_info
from fastad.histories.schema import INFO_FILE, LABELS, TASKS_FILE, DatasetInfo
from fastad.histories.writer import create_dataset

MARKER = marker_name("dataset")


@contextmanager
def begin_dataset(
    out: Path,
    info: DatasetInfo,
    tasks: Tensor,
    *,
    resume: bool,
    overwrite: bool,
    is_ours: bool = True,
) -> Iterator[DatasetInfo]:
    """Create a dataset, or make sure that the one that is there may be continued.

    Within the block nobody else collects into it or deletes it: its lock is held.

    Args:
        out: Created if missing.
        info: What the dataset shall be.
        tasks: (num_tasks, K).
        resume: Continue the dataset in `out`, if there is one.
        overwrite: Delete the dataset in `out`, if there is one.
        is_ours: Whether the user named what is described; what a file from anywhere names gains no
            trust by being copied.

    Yields:
        The info as it is stored: a dataset that is continued keeps the schema it was begun with.

    Raises:
        UserError: If `out` holds a dataset and neither was asked for, a dataset with other
            settings, or anything else, or if another process collects into it, which is named.
            Nothing has been written or deleted then.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other; choose one")
    # Refuses what nobody could read again.
    DatasetInfo.from_json(as_json(info.to_json()), file=f"out={out}")
    _check(out, info, resume=resume, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        # Whoever held the lock before may have changed everything.
        _check(out, info, resume=resume, overwrite=overwrite)
        revoke(out)  # workers elsewhere of one that was killed
        if overwrite and _is_dataset(out):
            delete_own(out, "dataset", _is_of(load_info(out)), last=(INFO_FILE, MARKER))
        create_dataset(out, info, tasks.numpy())
        if is_ours:
            remember(info.calls())  # whoever collects or writes histories named them
        yield load_info(out)


def discard_dataset(out: Path) -> None:
    """Delete a dataset that was begun within this block and will never be finished."""
    delete_own(out, "dataset", _is_of(load_info(out)), last=(INFO_FILE, MARKER))


def _check(out: Path, info: DatasetInfo, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that may not become, or be continued as, this dataset."""
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file; choose a folder")
    if not out.exists():
        return
    if not _is_dataset(out):
        _check_empty(out)
    elif overwrite:
        _check_deletable(out)
    elif resume:
        _check_unchanged(out, info)
    else:
        raise UserError(
            f"out={out} holds a dataset; continue it with --resume, or replace it with --overwrite"
        )


def _check_empty(out: Path) -> None:
    if strangers(out, _is_of_beginning):
        if is_marked(out, "dataset"):
            raise UserError(f"{out / INFO_FILE}: missing; {REBUILD}")
        raise UserError(f"out={out} is not empty and holds no dataset; choose another folder")


def _check_deletable(out: Path) -> None:
    info = load_info(out)
    # Before there were markers, the description was all that said whose the folder is.
    if info.tasks_digest and not is_marked(out, "dataset"):
        raise UserError(
            f"out={out} lacks the file {MARKER} that `fastad collect` writes, so it may be a copy "
            "that something else needs; delete it yourself, or choose another folder"
        )
    refuse_strangers(out, "dataset", _is_of(info))


def _is_dataset(out: Path) -> bool:
    return (out / INFO_FILE).exists()


def _is_of_beginning(name: str) -> bool:
    """Whether a file is one that a kill leaves while a dataset is begun, or deleted."""
    finals = (Path(final) for final in (TASKS_FILE, INFO_FILE, MARKER, LEASE_FILE))
    begun = (*LOCK_FILES, LEASE_FILE, TASKS_FILE, MARKER)
    return name in (*begun, *(temporary(file).name for file in finals))


def _is_of(info: DatasetInfo) -> Callable[[str], bool]:
    """Exactly the names that this dataset's files have, and those of their next contents."""
    shards = {shard_path("", index).name for index in range(info.num_shards)}
    inside = {"", *SHARD_FILES, *(temporary(Path(name)).name for name in SHARD_FILES)}

    def is_ours(path: str) -> bool:
        folder, slash, name = path.partition("/")
        if slash:
            return folder in shards and name in inside
        return path == INFO_FILE or _is_of_beginning(path)

    return is_ours


def _check_unchanged(out: Path, info: DatasetInfo) -> None:
    """Versions may differ: finishing a dataset after an upgrade is no new dataset."""
    old, new = load_info(out).settings(), info.settings()
    # What was asked for explains what follows from it.
    changed = differences(_asked_for(old), _asked_for(new)) or differences(old, new)
    if changed:
        raise UserError(
            f"--resume of {out} with changed settings ({'; '.join(changed)}); put them back, or "
            "start anew with --overwrite"
        )


def _asked_for(description: dict[str, Any]) -> dict[str, Any]:
    """The settings of a dataset, as `fastad collect` calls them."""
    same = ("env", "source", "holdout", "seed", "num_histories", "action_noise", "noise_labels")
    counts = {f"num_{split}_tasks": description[f"num_{split}"] for split in SPLITS}
    return (
        {name: description[name] for name in same}
        | counts
        | {
            "env_options": description["env_kwargs"],
            "source_options": description["source_kwargs"],
            "num_episodes": description["num_steps"] // description["episode_length"],
            "labels": [LABELS[name] for name in description["policies"] if name in LABELS],
            "look_ahead": description["look_ahead"] or None,
            "shards": description["num_shards"],
        }
    )
