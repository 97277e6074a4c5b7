"""Where results go: checked before the work, written whole, and never over other results."""

import itertools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError, naming, os_error
from fastad.base.files import as_json, replace_durably, sync, sync_folder, temporary


def check_output(field: str, file: Path, *, suffixes: tuple[str, ...] = ()) -> None:
    """Make sure that a file can be written, without writing it.

    Args:
        field: The setting that names it.
        file: Need not exist, nor its folder.
        suffixes: Those that it may end with; any by default.

    Raises:
        UserError: If it is a folder, ends otherwise, or cannot be written where it is to lie.
    """
    if suffixes and file.suffix.lower() not in suffixes:
        raise UserError(
            f"{field}={file} is of no kind that can be written; end it with {' or '.join(suffixes)}"
        )
    if file.is_dir():
        raise UserError(f"{field}={file} is a folder; name a file")
    if not _is_stream(file):
        check_folder(f"{field}={file}", file.resolve().parent)


def check_folder(setting: str, folder: Path) -> None:
    """Make sure that files can be written to a folder, which need not exist yet.

    Args:
        setting: What led there, as "out=runs/x".
        folder: Nothing is left in it.

    Raises:
        UserError: If they cannot.
    """
    try:
        place = folder
        while not place.exists():
            place = place.parent
        # Permissions alone do not tell: disks are full, network file systems have their own mind.
        with tempfile.TemporaryFile(dir=place, buffering=0) as probe:
            probe.write(b"?")
    except OSError as error:
        error.filename = str(place)
        raise os_error(error, setting) from error


def write_output(file: Path, values: Mapping[str, Any]) -> None:
    """Write JSON where the user wants it, whole or not at all; over what was there before.

    Raises:
        OSError: If it cannot be written; what was there before is still there then.
    """
    if _is_stream(file):
        with naming(file), file.open("wb") as stream:
            stream.write(_content(values))
        return
    _replace(file, _content(values))


def write_result(folder: Path, stem: str, values: Mapping[str, Any]) -> Path:
    """Write JSON to a file that did not exist: STEM.json, or STEM-2.json and so on.

    Any number of processes may do so at the same moment.

    Args:
        folder: Created if need be.
        stem: Begins the file's name.
        values: A JSON object.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = _content(values)
    for number in itertools.count(1):
        file = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        part = temporary(file)
        try:
            stream = part.open("xb")  # whoever creates it has the name
        except FileExistsError:
            continue
        try:
            with naming(file), stream:
                stream.write(content)
                stream.flush()
                sync(stream.fileno(), file)
            if not file.exists():
                part.rename(file)
                sync_folder(folder)
                return file
        finally:
            part.unlink(missing_ok=True)
    raise AssertionError("there is always another number")


def write_picture(file: Path, content: bytes) -> None:
    """Write an image, whole or not at all; its folder is created if need be."""
    _replace(file, content)


def write_text(file: Path, text: str) -> None:
    """Write text, whole or not at all; its folder is created if need be."""
    _replace(file, text.encode())


def _replace(file: Path, content: bytes) -> None:
    target = file.resolve()  # what a link points to, not the link
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(target, content)


def _content(values: Mapping[str, Any]) -> bytes:
    return f"{_text(as_json(values))}\n".encode()


def _text(value: Any, indent: str = "") -> str:
    """Plain values as JSON to be read and searched: lists of numbers stay on one line."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {_text(item, inner)}" for key, item in value.items()]
        ends = "{}"
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [_text(item, inner) for item in value]
        ends = "[]"
    else:
        return json.dumps(value)
    lines = ",\n".join(inner + item for item in items)
    return f"{ends[0]}\n{lines}\n{indent}{ends[1]}"


def _is_stream(file: Path) -> bool:
    """Whether it is a pipe or a device, as /dev/stdout, which takes what is written at once."""
    return file.exists() and not file.is_file() and not file.is_dir()
