"""Configs as YAML: written beside every run, read back, compared, and refused when unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

from fastad.base.errors import UserError, os_reason, unknown

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

MAX_YAML_BYTES, MAX_YAML_DEPTH = 2**18, 16
MAX_SHOWN = 80  # characters of a wrong value
# Fields by the names that earlier versions had for them, and by today's.
RENAMED = {"attention": "kernels"}

# As `fastad_kernels.Implementation`, spelled out because --help must not wait for PyTorch.
Kernels = Literal["auto", "triton", "native", "sdpa", "flash", "reference"]
# The names in `fastad.training.trackers.TRACKERS`, spelled out for the same reason.
Track = Literal["tensorboard", "wandb", "trackio"]


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
    try:
        # Through links and pipes too: the user named them.
        with path.open("rb") as stream:
            text = stream.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise UserError(f"config={path} cannot be read: {os_reason(error)}") from error
    content = parse_yaml(text, f"config={path}")
    if isinstance(content, dict):
        if isinstance(content.get(command), dict):
            content = content[command]  # a preset's file has a section for each command
        written_for = content.pop("command", command)
        if written_for != command:
            raise UserError(f"config={path} is for `fastad {written_for}`, not `fastad {command}`")
    return from_plain(content, kind, str(path))


def parse_yaml(content: bytes, where: str) -> Any:
    """Plain values from YAML that may come from anywhere: bounded in size, depth and repetition.

    Args:
        content: The file's bytes.
        where: Names it in errors.

    Raises:
        UserError: If it is too long or too deep, holds aliases, with which a few lines can stand
            for gigabytes, or is not YAML.
    """
    import yaml

    if len(content) > MAX_YAML_BYTES:
        raise UserError(f"{where} is longer than {MAX_YAML_BYTES:,} bytes; that is no config")
    try:
        _refuse_bombs(content, where)
        return yaml.safe_load(content)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UserError(f"{where} is not YAML: {error}") from error


def _refuse_bombs(content: bytes, where: str) -> None:
    import yaml

    depth = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        assert event.start_mark is not None
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise UserError(
                f"{where}: line {line}: alias *{event.anchor} is not read; write the value out"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise UserError(
                f"{where}: line {line}: nested deeper than {MAX_YAML_DEPTH}; no field is"
            )


def from_plain(content: object, kind: type[T], where: str) -> T:
    """Build a dataclass from plain values, refusing unknown fields and wrong types."""
    from pydantic import ValidationError

    if not isinstance(content, dict):
        raise UserError(f"{where} must hold fields, as `num_layers: 2`")
    content = _by_todays_names(content, kind)
    _check_keys(content, kind, where)
    try:
        config: T = _adapter(kind).validate_python(content)  # type: ignore[arg-type]
        return config
    except ValidationError as error:
        raise UserError(_explain(error, where)) from error


def checked(field: str, value: object, kind: type) -> Any:
    """A plain value, if a dataclass's field of that name can hold it as it is.

    Raises:
        ValueError: Naming the field, if it is of another type.
    """
    from pydantic import ValidationError

    try:
        return _adapter(_hints(kind)[field]).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(_first(error, field)) from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """What builds a dataclass from plain values; making one takes 20 ms."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def with_settings(config: T, settings: Mapping[str, Any], where: str) -> T:
    """A config with some settings replaced, each by its bare name, as flags do.

    Those of nested configs too: `width=64` is the model.width of a `TrainConfig`. A dict is taken
    where KEY=VALUE strings stand: `env_options={"size": 11}`.

    Args:
        config: A dataclass; left as it is.
        settings: Values by name; a nested config may be given whole.
        where: Names the caller in errors.

    Raises:
        UserError: For a name that is no setting, or a value of another type or range.
    """
    if not settings:
        return config
    content = asdict(config)  # type: ignore[call-overload]
    nested = {k: v for k, v in content.items() if is_dataclass(getattr(config, k))}
    homes = {name: home for home in (*nested.values(), content) for name in home}
    # Whole nested configs first: bare names change them, wherever they stand.
    for name, value in sorted(settings.items(), key=lambda item: item[0] not in nested):
        if name not in homes:
            raise unknown(f"setting of {where}:", name, homes)
        if name in nested and is_dataclass(value) and not isinstance(value, type):
            nested[name].update(asdict(value))
        elif isinstance(value, Mapping) and isinstance(homes[name][name], tuple):
            homes[name][name] = format_options(value)
        else:
            homes[name][name] = value
    return from_plain(content, type(config), where)


def parse_options(field: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Turn KEY=VALUE strings into keyword arguments; values are YAML: 11, 0.5, true, text.

    Raises:
        UserError: For a string of another form, or a key given twice.
    """
    import yaml

    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals or not text:
            raise UserError(f"{field}: {pair!r} is not of the form KEY=VALUE, such as size=11")
        if key in options:
            raise UserError(f"{field}: {key!r} is given twice; keep one")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{field}: the value of {pair!r} cannot be read; try quotes") from error
        options[key] = _as_number(value)
    return options


def format_options(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Keyword arguments as the KEY=VALUE strings that `parse_options` reads."""
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in options.items()
    )


def typed(config: Any, *, bare: str = "") -> list[str]:
    """The words that a user types for a config: what differs from the defaults.

    Args:
        config: A dataclass; its nested ones have flags of their own.
        bare: The field whose value needs no flag, and stands first.
    """
    words: list[str] = []
    for field in fields(config):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if is_dataclass(value):
            words += typed(value)
        elif field.name == bare:
            words = [str(value), *words]
        elif value == field.default:
            continue
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else [value])]
    return words


def _as_number(value: Any) -> Any:
    """YAML 1.1 takes 1e-1 for text, within lists and mappings as well."""
    if isinstance(value, list):
        return [_as_number(item) if _may_be(item) else item for item in value]
    if isinstance(value, dict):
        return {key: _as_number(item) if _may_be(item) else item for key, item in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _may_be(item: Any) -> bool:
    """Whether an item may hold a number that YAML took for text, not just digits in quotes."""
    return isinstance(item, list | dict) or (isinstance(item, str) and "e" in item.lower())


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as nested plain values: paths as strings, tuples as lists."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def check_seed(seed: int) -> None:
    """Refuse a seed from which not every generator that we use can be seeded."""
    if not 0 <= seed < 2**40:
        raise UserError(f"seed={seed} must be between 0 and 2^40; choose another")


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


def _by_todays_names(content: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The same fields, read by their earlier names as well; not by both at once."""
    names = {field.name for field in fields(kind)} - content.keys()
    return {RENAMED[k] if RENAMED.get(k) in names else k: v for k, v in content.items()}


def _check_keys(content: dict[str, Any], kind: Any, where: str) -> None:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for key, value in content.items():
        if key not in names:
            raise unknown(f"field in {where}:", key, names)
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_keys(value, hints[key], f"{where}: {key}")


def _explain(error: ValidationError, where: str) -> str:
    told = error.errors()[0].get("ctx", {}).get("error")
    return f"{where}: {told if isinstance(told, UserError) else _first(error)}"


def _first(error: ValidationError, *within: str) -> str:
    """The first thing that is wrong, with its field's name and value."""
    first = error.errors()[0]
    field = ".".join(map(str, (*within, *first["loc"])))
    shown = repr(first["input"])
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return f"{field}={shown}: {first['msg']}"
