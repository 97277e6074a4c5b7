"""A command's flags, and its config from the words that were typed."""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fastad.base.config import RENAMED, parse_options
from fastad.base.errors import UserError
from fastad.base.trust import names_within
from fastad.cli.help import show_help
from fastad.cli.table import COMMANDS
from fastad.cli.values import convert
from fastad.cli.words import Takes, sort_words

# Flags by another name, which is as good.
ALIASES = {"--env-kwargs": "--env-options", "--source-kwargs": "--source-options"}
LARGEST = 2**40  # of any whole number in a config


def parse(name: str, arguments: list[str]) -> Any:
    """Build a command's config from a preset or file, if any, and the flags that override it.

    Raises:
        UserError: For flags or values that are not possible.
        SystemExit: After printing the help.
    """
    command, kind, takes = COMMANDS[name], kind_of(name), flags_of(name)
    given, bare = sort_words(name, _by_todays_names(arguments, takes), takes)
    source = given.pop("--config", None)
    given.pop("--trust", None)  # see `names_typed`
    default = None if source is None else _load(name, kind, source[0])
    if default is None and hasattr(kind, "begin_with"):
        default = kind.begin_with({flag[2:]: words[-1] for flag, words in given.items() if words})
    if "--help" in given or (bare == ["help"] and not given):
        word = command.positional.upper()
        usage = f"fastad {name} [{word}]" if word else f"fastad {name}"
        show_help(usage, kind, default, command.settings, trust=command.runs_code)
    if bare:
        given |= _place(name, bare, given, takes)
    config = _build(name, kind, default, _values(kind, given))
    _check_sizes(config)
    return config


def names_typed(name: str, arguments: list[str]) -> list[str]:
    """The code that was typed by name, "module:callable", which may therefore be run.

    A file given by --config was not typed, nor is a folder code that is called like some.
    """
    takes = flags_of(name)
    given, _ = sort_words(name, _by_todays_names(arguments, takes, say=False), takes)
    typed = [name for word in given.get("--trust", []) for name in word.split(",")]
    for flag in ("--env", "--source"):
        typed += given.get(flag, [])
    for flag in ("--env-options", "--source-options"):
        typed += names_within(parse_options(flag[2:], given.get(flag, [])))
    return typed


def kind_of(name: str) -> Any:
    """The dataclass of a command's settings."""
    return getattr(import_module(f"fastad.commands.{name}"), COMMANDS[name].config)


def flags_of(name: str) -> dict[str, Takes]:
    """Every flag of a command, and what it takes."""
    takes: dict[str, Takes] = {"--help": 0}
    if COMMANDS[name].settings:
        takes["--config"] = 1
    if COMMANDS[name].runs_code:
        takes["--trust"] = 1
    for field, hint in settings_of(kind_of(name)):
        flag = f"--{field.replace('_', '-')}"
        if hint is bool:
            takes |= {flag: 0, f"--no-{flag[2:]}": 0}
        elif get_origin(hint) is not tuple:
            takes[flag] = 1
        elif get_args(hint)[-1] is not Ellipsis:
            takes[flag] = len(get_args(hint))
        else:
            takes[flag] = "pairs" if field.endswith("_options") else "words"
    return takes


def settings_of(kind: Any) -> Iterator[tuple[str, Any]]:
    """Every setting of a command and its type, those of nested dataclasses included."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from settings_of(hints[field.name])
        else:
            yield field.name, hints[field.name]


def _place(
    name: str, bare: list[str], given: dict[str, list[str]], takes: dict[str, Takes]
) -> dict[str, list[str]]:
    """The flag that the bare words stand for, with them as its values.

    Raises:
        UserError: If they stand for none, or are more than it takes.
    """
    shown, positional = " and ".join(map(repr, bare)), COMMANDS[name].positional
    if not positional:
        raise UserError(f"fastad {name} takes no bare words; {shown} belongs to no option")
    if " " in positional:
        return _place_each(name, bare, given, positional.split())
    flag = f"--{positional.replace('_', '-')}"
    if flag in given:
        was = " ".join(given[flag])
        raise UserError(f"{flag} {was} and the bare {shown} are both {flag}; keep one")
    if len(bare) > 1 and takes[flag] != "words":
        pairs = [option for option, kind in takes.items() if kind == "pairs" and option in given]
        hint = f"; {pairs[0]} takes KEY=VALUE words alone" if pairs else ""
        raise UserError(
            f"fastad {name} takes one bare word, its {positional.upper()}, and {shown} "
            f"are {len(bare)}; a value stands right behind its option{hint}"
        )
    return {flag: bare}


def _place_each(
    name: str, bare: list[str], given: dict[str, list[str]], fields: list[str]
) -> dict[str, list[str]]:
    """One flag for each bare word, of those that were not given."""
    flags = [f"--{field}" for field in fields if f"--{field}" not in given]
    if len(bare) > len(flags):
        shown = " ".join(field.upper() for field in fields)
        raise UserError(
            f"fastad {name} takes {shown}, and {bare[len(flags)]!r} is one word too many; a value "
            "stands right behind its option"
        )
    return {flag: [word] for flag, word in zip(flags, bare, strict=False)}


def _values(kind: Any, given: dict[str, list[str]]) -> dict[str, Any]:
    """The values of the fields whose flags were given, the last one's of --x and --no-x."""
    hints = dict(settings_of(kind))
    values: dict[str, Any] = {}
    for flag, words in given.items():
        field = flag[2:].replace("-", "_")
        if field not in hints:
            values[field.removeprefix("no_")] = False
        else:
            values[field] = hints[field] is bool or convert(field, hints[field], words)
    return values


def _build(name: str, kind: Any, default: Any, values: dict[str, Any]) -> Any:
    """A dataclass with `values`, the rest as in `default` or by default, nested ones alike."""
    hints, own = get_type_hints(kind), {}
    for field in fields(kind):
        hint, factory = hints[field.name], field.default_factory
        if is_dataclass(hint):
            nested = None if default is None else getattr(default, field.name)
            own[field.name] = _build(name, hint, nested, values)
        elif field.name in values:
            own[field.name] = values[field.name]
        elif default is None and field.default is MISSING and factory is MISSING:
            word, words = field.name.upper(), COMMANDS[name].positional.upper()
            raise UserError(f"fastad {name} needs its {word}; write fastad {name} {words}")
    return kind(**own) if default is None else replace(default, **own)


def _check_sizes(config: Any) -> None:
    """Refuse numbers that are no number of anything, and that neither C++ nor a disk can hold."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            _check_sizes(value)
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise UserError(f"{field.name}={value} is too large; use less than 2^40")


def _by_todays_names(
    arguments: list[str], flags: dict[str, Takes], *, say: bool = True
) -> list[str]:
    """Take flags by their other names, and by their earlier ones, and say so of these once."""
    aliases = {other: flag for other, flag in ALIASES.items() if flag in flags}
    renamed = {f"--{old}": f"--{new}" for old, new in RENAMED.items() if f"--{new}" in flags}
    parts = [argument.partition("=") for argument in arguments]
    for old in dict.fromkeys(flag for flag, _, _ in parts if say and flag in renamed):
        print(f"fastad: {old} is now {renamed[old]}", file=sys.stderr)
    names = aliases | renamed
    return [names.get(flag, flag) + equals + value for flag, equals, value in parts]


def _load(name: str, kind: type[Any], source: str) -> Any:
    from fastad.base.config import load_config
    from fastad.presets import preset_for

    if Path(source).suffix in (".yaml", ".yml") or len(Path(source).parts) > 1:
        return load_config(Path(source), name, kind)
    return preset_for(source, name)
