"""Folders that are fastad's own: a marker says so, and nothing is deleted but by its exact name."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from fastad.base.errors import UserError
from fastad.base.files import read_bytes, replace_durably, temporary
from fastad.base.locks import LOCK_FILES, WORKER_PATIENCE, folder_lock

Kind = Literal["dataset", "run", "minari", "model"]
MAX_MARKER_BYTES = 2**10


def marker_name(kind: Kind) -> str:
    """The file that marks a folder as fastad's: a dataset, a run, or what one was converted to."""
    return f".fastad-{kind}"


def mark(folder: Path, kind: Kind) -> None:
    """Write the marker; the folder holds nothing of anybody else, and its lock is held."""
    replace_durably(folder / marker_name(kind), _content(kind))


def is_marked(folder: Path, kind: Kind) -> bool:
    """Whether fastad marked the folder; False for a marker that is missing or damaged.

    Raises:
        UserError: If the marker is no regular file.
    """
    file = folder / marker_name(kind)
    try:
        content = read_bytes(file, fix="delete it", limit=MAX_MARKER_BYTES)
    except FileNotFoundError:
        return False
    return content == _content(kind)


def torn_marker(folder: Path, kind: Kind) -> str | None:
    """The name of a marker that a kill tore while it was written; None if there is none such.

    Raises:
        UserError: If it is no regular file.
    """
    file = temporary(folder / marker_name(kind))
    try:
        content = read_bytes(file, fix="delete it", limit=MAX_MARKER_BYTES)
    except FileNotFoundError:
        return None
    return file.name if _content(kind).startswith(content) else None


def strangers(folder: Path, is_ours: Callable[[str], bool]) -> list[str]:
    """What lies in a folder and is not fastad's, sorted.

    Nothing need be locked: what its writer deletes meanwhile is no stranger.

    Args:
        folder: What there is none of holds nothing.
        is_ours: Told a path within the folder, "a/b" of a file and "a/" of a folder; true for
            exact names only. Locks are always ours, symbolic links never.

    Returns:
        Paths within the folder, in the same form. A strange folder is not looked into.
    """
    found = []
    try:
        entries = _entries(folder)
    except FileNotFoundError:
        return []
    for path, entry in entries:
        if entry.is_symlink() or not (entry.name in LOCK_FILES or is_ours(path)):
            found.append(path)
        elif path.endswith("/"):
            found += [path + name for name in strangers(folder / path, _within(path, is_ours))]
    return sorted(found)


def delete_own(
    folder: Path, kind: Kind, is_ours: Callable[[str], bool], *, last: Sequence[str] = ()
) -> None:
    """Delete everything of fastad's in a folder whose lock is held; the folder itself stays.

    Args:
        folder: Exists.
        kind: For the error message.
        is_ours: See `strangers`.
        last: Files to delete after all others, in this order, so that a kill in between leaves a
            folder that still says what it is.

    Raises:
        UserError: If anything else lies there; nothing has been deleted then.
        OSError: If something cannot be deleted.
    """
    refuse_strangers(folder, kind, is_ours)
    for path, entry in _entries(folder):
        if path.endswith("/"):
            _delete_subfolder(folder / path, kind, _within(path, is_ours))
        elif entry.name not in (*LOCK_FILES, *last):
            (folder / path).unlink()
    for name in last:
        (folder / name).unlink(missing_ok=True)


def refuse_strangers(folder: Path, kind: Kind, is_ours: Callable[[str], bool]) -> None:
    """Make sure that `delete_own` may delete everything in a folder.

    Raises:
        UserError: If anything lies there that is not fastad's.
    """
    foreign = strangers(folder, is_ours)
    if foreign:
        raise UserError(
            f"{folder} holds more than its {kind} ({', '.join(foreign[:3])}); move that "
            "elsewhere or choose another folder"
        )


def _delete_subfolder(folder: Path, kind: Kind, is_ours: Callable[[str], bool]) -> None:
    with ExitStack() as stack:
        # A folder with a lock of its own has a writer of its own: a worker that was orphaned a
        # moment ago, perhaps.
        if any((folder / name).exists() for name in LOCK_FILES):
            stack.enter_context(folder_lock(folder, patience=WORKER_PATIENCE))
        delete_own(folder, kind, is_ours)
    for name in LOCK_FILES:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _entries(folder: Path) -> list[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        return [(e.name + "/" * e.is_dir(follow_symlinks=False), e) for e in entries]


def _within(path: str, is_ours: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda name: is_ours(path + name)


def _content(kind: Kind) -> bytes:
    return f"a {kind} of fastad, format 1\n".encode()
