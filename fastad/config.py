"""Configs as YAML: written beside every run, read back, compared, and refused when unknown."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

from fastad.errors import UserError, unknown

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")

# As `fastad_kernels.Implementation`, spelled out because --help must not wait for PyTorch.
Attention = Literal["auto", "triton", "native", "sdpa", "flash", "reference"]


def dump_config(command: str, plain: dict[str, Any]) -> str:
    """A command's settings, as `to_plain` gives them, as YAML that `--config` reads back."""
    import yaml

    text: str = yaml.safe_dump({"command": command, **plain}, sort_keys=False)
    return text


def load_config(path: Path, command: str, kind: type[T]) -> T:
    """Read a config file for one command.

    Args:
        path: A YAML file; fields it leaves out keep their defaults.
        command: Which command it must be for, if it says so.
        kind: The command's dataclass.

    Raises:
        UserError: Naming the file, the field, its value and the fix.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"config={path} cannot be read: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"config={path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"config={path} must hold fields, as `num_layers: 2`")
    written_for = content.pop("command", command)
    if written_for != command:
        raise UserError(f"config={path} is for `fastad {written_for}`, not `fastad {command}`")
    return from_plain(content, kind, str(path))


def from_plain(content: dict[str, Any], kind: type[T], where: str) -> T:
    """Build a dataclass from plain values, refusing unknown fields and wrong types."""
    from pydantic import TypeAdapter, ValidationError

    _check_keys(content, kind, where)
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise UserError(_explain(error, where)) from error


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values: paths as strings, tuples as lists."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines "field: old -> new" for every setting that differs."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _check_keys(content: dict[str, Any], kind: Any, where: str) -> None:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for key, value in content.items():
        if key not in names:
            raise unknown(f"field in {where}:", key, names)
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_keys(value, hints[key], f"{where}: {key}")


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{where}: {field}={first['input']!r}: {first['msg']}"
