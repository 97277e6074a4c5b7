"""A command's flags, and its config from them; tyro lives here alone."""

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fastad.base.config import RENAMED
from fastad.base.errors import UserError
from fastad.cli.help import show_help
from fastad.cli.table import COMMANDS, Command
from fastad.cli.words import Takes, sort_words

LARGEST = 2**40  # of any whole number in a config


def parse(name: str, arguments: list[str]) -> Any:
    """Build a command's config from a preset or file, if any, and the flags that override it.

    Raises:
        UserError: For flags or values that are not possible.
        SystemExit: After printing the help.
    """
    import tyro

    command, kind, takes = COMMANDS[name], kind_of(name), flags_of(name)
    given, bare = sort_words(name, _by_todays_names(arguments, takes), takes)
    source = given.pop("--config", None)
    default = None if source is None else _load(name, kind, source[0])
    if "--help" in given:
        word = command.positional.upper()
        usage = f"fastad {name} [{word}]" if word else f"fastad {name}"
        show_help(usage, kind, default, command.settings)
    if bare:
        given |= _place(name, command, bare, given, takes)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                kind,
                args=[word for flag, values in given.items() for word in _joined(flag, values)],
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_first_line(complaint.getvalue())}; see fastad {name} --help") from None
    _check_sizes(config)
    return config


def kind_of(name: str) -> Any:
    """The dataclass of a command's settings."""
    return getattr(import_module(f"fastad.commands.{name}"), COMMANDS[name].config)


def flags_of(name: str) -> dict[str, Takes]:
    """Every flag of a command, and what it takes."""
    takes: dict[str, Takes] = {"--help": 0}
    if COMMANDS[name].settings:
        takes["--config"] = 1
    for setting, hint in _settings(kind_of(name)):
        flag = f"--{setting.name.replace('_', '-')}"
        if hint is bool:
            takes |= {flag: 0, f"--no-{flag[2:]}": 0}
        elif get_origin(hint) is not tuple:
            takes[flag] = 1
        elif get_args(hint)[-1] is not Ellipsis:
            takes[flag] = len(get_args(hint))
        else:
            takes[flag] = "pairs" if setting.name.endswith("_options") else "words"
    return takes


def _settings(kind: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Every setting of a command and its type, those of nested dataclasses included."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _settings(hints[field.name])
        else:
            yield field, hints[field.name]


def _place(
    name: str,
    command: Command,
    bare: list[str],
    given: dict[str, list[str]],
    takes: dict[str, Takes],
) -> dict[str, list[str]]:
    """The flag that the bare words stand for, with them as its values.

    Raises:
        UserError: If they stand for none, or are more than it takes.
    """
    shown = " and ".join(map(repr, bare))
    if not command.positional:
        raise UserError(f"fastad {name} takes no bare words; {shown} belongs to no option")
    flag = f"--{command.positional.replace('_', '-')}"
    if flag in given:
        raise UserError(
            f"{flag} {' '.join(given[flag])} and the bare {shown} are both {flag}; keep one"
        )
    if len(bare) > 1 and takes[flag] != "words":
        pairs = [option for option, kind in takes.items() if kind == "pairs" and option in given]
        hint = f"; {pairs[0]} takes KEY=VALUE words alone" if pairs else ""
        raise UserError(
            f"fastad {name} takes one bare word, its {command.positional.upper()}, and {shown} "
            f"are {len(bare)}; a value stands right behind its option{hint}"
        )
    return {flag: bare}


def _joined(flag: str, values: list[str]) -> list[str]:
    """A flag as argparse misreads it least: a single value may begin with a dash."""
    return [f"{flag}={values[0]}"] if len(values) == 1 else [flag, *values]


def _check_sizes(config: Any) -> None:
    """Refuse numbers that are no number of anything, and that neither C++ nor a disk can hold."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            _check_sizes(value)
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise UserError(f"{field.name}={value} is too large; use less than 2^40")


def _by_todays_names(arguments: list[str], flags: dict[str, Takes]) -> list[str]:
    """Take flags by their earlier names, too, and say so once."""
    renamed = {f"--{old}": f"--{new}" for old, new in RENAMED.items() if f"--{new}" in flags}
    parts = [argument.partition("=") for argument in arguments]
    for old in dict.fromkeys(flag for flag, _, _ in parts if flag in renamed):
        print(f"fastad: {old} is now {renamed[old]}", file=sys.stderr)
    return [renamed.get(flag, flag) + equals + value for flag, equals, value in parts]


def _first_line(complaint: str) -> str:
    """The message in the box that tyro draws."""
    lines = (line.strip(" │") for line in complaint.splitlines())
    message: list[str] = []
    for line in lines:
        if line.startswith("───") and message:
            break
        if line and line[0] not in "╭╰─":
            message.append(line)
    return " ".join(message)


def _load(name: str, kind: type[Any], source: str) -> Any:
    from fastad.base.config import load_config
    from fastad.presets import preset_for

    if Path(source).suffix in (".yaml", ".yml") or len(Path(source).parts) > 1:
        return load_config(Path(source), name, kind)
    return preset_for(source, name)
