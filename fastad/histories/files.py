"""Small files, read with errors that name them and replaced so that no crash can tear them."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastad.errors import UserError

LOCK_PATIENCE = 5.0  # seconds
REBUILD = "restore the file from a backup, or delete the dataset and run `fastad collect` again"


def read_json(file: Path) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        UserError: If the file cannot be parsed or holds something other than an object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); {REBUILD}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: holds a {type(values).__name__}, not an object; {REBUILD}")
    return values


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Replace `file` atomically and durably: a crash leaves the old content or the new."""
    replace_durably(file, (_dump(values) + "\n").encode())


def as_json(value: Any) -> Any:
    """`value` as it comes back from JSON: tuples as lists, NumPy numbers as plain ones."""
    return json.loads(_dump(value))


def replace_durably(file: Path, content: bytes) -> None:
    """Write a sibling, flush it to the disk, and rename it over `file`."""
    sibling = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with sibling.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    sibling.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut, where the platform can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock_folder(folder: Path) -> int | None:
    """Become the only writer of a folder until the descriptor is closed or the process ends.

    Returns:
        A file descriptor to close, or None where the platform has no such locks.

    Raises:
        UserError: If another process is writing there.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            # The workers of a killed collection need a moment to notice.
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise UserError(
                f"{folder} is being written by another process; wait for it or stop it first"
            ) from error


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: object) -> object:
    """Numbers and arrays of NumPy, and paths, as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r} cannot be stored as JSON")
