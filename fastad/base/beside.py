"""Folders and files that appear whole: written beside their place, then moved to it."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastad.base.errors import UserError
from fastad.base.files import sync_folder
from fastad.base.locks import LOCK_FILES, folder_lock
from fastad.base.possession import (
    Kind,
    delete_own,
    is_marked,
    mark,
    marker_name,
    refuse_strangers,
    strangers,
)


@contextmanager
def folder_beside(
    final: Path, kind: Kind, is_ours: Callable[[str], bool], *, overwrite: bool
) -> Iterator[Path]:
    """Fill a folder that appears as `final` when the block has ended well, and is gone otherwise.

    Args:
        final: Absent or empty; with `overwrite` it may be one of fastad's of the same kind, which
            is deleted when the new one is complete.
        kind: Of folder; its marker is written.
        is_ours: What fastad writes to such a folder, see `strangers`; the marker need not be named.
        overwrite: Replace what is there.

    Yields:
        An empty folder on the same file system.

    Raises:
        UserError: If `final` holds something that may not be replaced; nothing has been written.
    """
    marker = marker_name(kind)

    def is_own(path: str) -> bool:
        return path == marker or is_ours(path)

    _check_folder(final, kind, is_own, overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = _part(final)
    part.mkdir()
    try:
        yield part
        mark(part, kind)
        _check_folder(final, kind, is_own, overwrite)
        if final.exists():
            with folder_lock(final):
                delete_own(final, kind, is_own, last=(marker,))
            for name in LOCK_FILES:
                (final / name).unlink(missing_ok=True)
            final.rmdir()
        part.rename(final)
        sync_folder(final.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # of a random name: nobody else's


@contextmanager
def file_beside(final: Path, is_ours: Callable[[Path], bool], *, overwrite: bool) -> Iterator[Path]:
    """Write a file that appears as `final` when the block has ended well, and is gone otherwise.

    Args:
        final: Absent; with `overwrite` it may be one of fastad's.
        is_ours: Whether a file is one that fastad wrote.
        overwrite: Replace what is there.

    Yields:
        Where to write it.

    Raises:
        UserError: If `final` may not be replaced; nothing has been written.
    """
    _check_file(final, is_ours, overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = _part(final)
    try:
        yield part
        _check_file(final, is_ours, overwrite)
        part.replace(final)
        sync_folder(final.parent)
    finally:
        part.unlink(missing_ok=True)


def _part(final: Path) -> Path:
    # Hidden: what lists a folder passes over it.
    return final.with_name(f".{final.name}-{secrets.token_hex(4)}.part")


def _check_folder(final: Path, kind: Kind, is_own: Callable[[str], bool], overwrite: bool) -> None:
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise UserError(f"destination={final} is no folder; choose another name")
    if not strangers(final, lambda name: False):
        return
    if not is_marked(final, kind):
        raise UserError(
            f"destination={final} is not empty and lacks the file {marker_name(kind)} that shows "
            "it to be fastad's; choose another name, or delete it yourself"
        )
    refuse_strangers(final, kind, is_own)
    if not overwrite:
        raise UserError(f"destination={final} exists; replace it with --overwrite")


def _check_file(final: Path, is_ours: Callable[[Path], bool], overwrite: bool) -> None:
    if final.is_symlink() or (final.exists() and not final.is_file()):
        raise UserError(f"destination={final} is no file; choose another name")
    if not final.exists():
        return
    if not is_ours(final):
        raise UserError(
            f"destination={final} is none of fastad's files; choose another name, or delete it "
            "yourself"
        )
    if not overwrite:
        raise UserError(f"destination={final} exists; replace it with --overwrite")
