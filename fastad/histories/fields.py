"""What is stored as JSON, held to the dataclass that it is read into."""

import dataclasses
import reprlib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium import spaces

from fastad.base.errors import UserError, unknown

SCHEMA_VERSION = 2
REBUILD = "restore the file from a backup, or delete the dataset and run `fastad collect` again"


def check_version(version: object, file: str | Path) -> int:
    """Refuse what this version of fastad cannot read; returns the version.

    Raises:
        UserError: If the schema version is missing, malformed or newer.
    """
    if type(version) is not int or version < 1:
        raise UserError(f"{file}: schema_version={version!r} is no version number; {REBUILD}")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{file}: schema_version={version} is newer than {SCHEMA_VERSION}, the newest that "
            "this fastad reads; upgrade fastad"
        )
    return version


def complete(kind: type, values: Mapping[str, Any], file: str | Path, fix: str) -> dict[str, Any]:
    """The fields of a JSON object, checked against those of the dataclass `kind`.

    What an older version did not write yet has its default: a new field orphans no file.

    Raises:
        UserError: For unknown, missing or mistyped fields, naming `file` and the `fix`.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise UserError(f"{file}: {unknown('field', name, fields)}")
    complete = {}
    for name, expected in fields.items():
        value = values[name] if name in values else _default(expected)
        if value is dataclasses.MISSING:
            raise UserError(f"{file}: field {name!r} is missing; {fix}")
        if not _has_type(value, expected.type):
            shown = reprlib.repr(value)
            raise UserError(f"{file}: field {name!r} is {shown}, not {expected.type}; {fix}")
        complete[name] = value
    return complete


def _default(expected: "dataclasses.Field[Any]") -> Any:
    """A dataclass field's default; MISSING if it has none."""
    if expected.default_factory is not dataclasses.MISSING:
        return expected.default_factory()
    return expected.default


def _has_type(value: object, annotation: Any) -> bool:
    """Whether a JSON value fits a field's annotation; spaces are objects in JSON."""
    kind = typing.get_origin(annotation) or annotation
    allowed = {float: (int, float), spaces.Space: (dict,)}.get(kind, (kind,))
    # bool is a subclass of int, but true is no count.
    if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
        return False
    items = typing.get_args(annotation)
    return not isinstance(value, list) or all(type(item) is items[0] for item in value)
