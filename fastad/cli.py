"""The command line: which command, which config, and what its errors look like."""

import contextlib
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from fastad import __version__
from fastad.base.config import RENAMED
from fastad.base.errors import (
    CheckFailedError,
    UserError,
    memory_error,
    os_error,
    printable,
    unknown,
)
from fastad.base.interrupt import Stopped, stop_signals


@dataclass(frozen=True)
class Command:
    """Where a command lives, what its first bare argument means, and how it is continued."""

    config: str
    function: str
    positional: str
    summary: str
    continued: tuple[str, ...] | None = None  # flags that continue it; None: it starts anew


COMMANDS = {
    "demo": Command("DemoConfig", "run_demo", "preset", "all of it, end to end, in minutes", ()),
    "collect": Command(
        "CollectConfig", "run_collect", "out", "source + env -> learning histories", ("--resume",)
    ),
    "train": Command(
        "TrainConfig", "run_train", "data", "learning histories -> run folder", ("--resume",)
    ),
    "rollout": Command("RolloutConfig", "run_rollout", "run", "frozen weights on unseen tasks"),
    "inspect": Command("InspectConfig", "run_inspect", "path", "what is in a dataset or run"),
    "bench": Command("BenchConfig", "run_bench", "questions", "speed and memory beside peers"),
    "doctor": Command("DoctorConfig", "run_doctor", "", "what this machine can use"),
}

LARGEST = 2**40  # of any whole number in a config

EXAMPLES = """\
examples:
  fastad demo                               watch in-context learning happen
  fastad collect data/dark-room --env dark-room --source frontier
  fastad train data/dark-room --out runs/dark-room
  fastad rollout runs/dark-room --kv-cache
  fastad train data/dark-room --config paper-dark   (a preset, or a YAML file)
  fastad bench rollout train                (what these are: fastad bench --help)

`fastad COMMAND --help` explains every option of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, 1 if a check of correctness failed, 2 after an error that the user can put right, 141 if
        nobody reads the output any more, and 128 plus its number after a signal: 130 for Ctrl-C,
        143 for SIGTERM, 129 for SIGHUP.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stop_signals():
            _main(given)
            if sys.stdout is not None:
                sys.stdout.flush()  # what cannot be written shall be known here
        return 0
    except UserError as error:
        return _complain(str(error), 2)
    except CheckFailedError as error:
        return _complain(str(error), 1)
    except BrokenPipeError:
        # Whoever read our output, `head` perhaps, has seen enough.
        _drop_output()
        return 141
    except OSError as error:
        return _complain(str(os_error(error)), 2)
    except (MemoryError, RuntimeError, ValueError) as error:
        explained = memory_error(error)
        if explained is None:
            raise
        return _complain(str(explained), 2)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        how = f"stopped by {stop}" if isinstance(stop, Stopped) else "interrupted"
        return _complain(f"{how}; {_way_on(given)}", 128 + number)


def _complain(text: str, status: int) -> int:
    """Say in one line on standard error why the command ends; returns its exit status."""
    try:
        print(f"fastad: {printable(text)}", file=sys.stderr, flush=True)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # The terminal is gone, or the disk is full that the output goes to: nobody is left to tell.
        _drop_output()
    return status


def _drop_output() -> None:
    """Spare the interpreter a last attempt to write what nobody will read."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _way_on(arguments: list[str]) -> str:
    """How to continue a command that was stopped."""
    command = COMMANDS.get(arguments[0] if arguments else "")
    if command is None or command.continued is None:
        return f"start again with: {shlex.join(['fastad', *arguments])}"
    kept = [a for a in arguments if a not in ("--overwrite", *command.continued)]
    return (
        "what was finished is kept; go on with: "
        f"{shlex.join(['fastad', *kept, *command.continued])}"
    )


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        print(f"fastad {__version__}")
        return
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module = import_module(f"fastad.commands.{name}")
    function = getattr(module, COMMANDS[name].function)
    config = parse(name, rest)
    with _libraries_speak(), _settings_named(config):
        function(config)


@contextlib.contextmanager
def _settings_named(config: Any) -> Iterator[None]:
    """Say of an error of the operating system which setting led there."""
    try:
        yield
    except OSError as error:
        stop = _stop_before(error)
        if stop is not None and error.filename is None:
            raise stop from error
        if isinstance(error, BrokenPipeError):
            raise
        raise os_error(error, _field_of(config, error.filename)) from error


def _stop_before(error: BaseException | None) -> KeyboardInterrupt | None:
    """The request to stop before `error`: a closing terminal takes the output along."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _field_of(config: Any, file: object) -> str:
    """The setting, as "out=runs/x", whose path leads to `file`; "" if there is none."""
    if not isinstance(file, str):
        return ""
    path = os.path.abspath(file)
    shared = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            own = os.path.abspath(value)
            common = os.path.commonpath((own, path))
            if common in (own, path):
                shared[f"{field.name}={value}"] = len(common)
    return max(shared, key=lambda setting: shared[setting], default="")


@contextlib.contextmanager
def _libraries_speak() -> Iterator[None]:
    """Show what the verbs have to say, and the kernels: which are used, and why."""
    handler = logging.StreamHandler(sys.stdout)
    loggers = [logging.getLogger(name) for name in ("fastad", "fastad_kernels")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)


def parse(name: str, arguments: list[str]) -> Any:
    """Build a command's config from a preset or file, if any, and the flags that override it.

    Raises:
        UserError: For flags or values that are not possible.
        SystemExit: After printing the help.
    """
    import tyro

    command = COMMANDS[name]
    kind = getattr(import_module(f"fastad.commands.{name}"), command.config)
    arguments, source = _take_config(arguments)
    default = {} if source is None else {"default": _load(name, kind, source)}
    if arguments and command.positional and not arguments[0].startswith("-"):
        arguments = [f"--{command.positional}", *arguments]
    flags = _flags(kind)
    arguments = _by_todays_names(arguments, flags)
    _check_flags(name, flags, arguments)
    _unwrap_help(kind)
    bare = f" [{command.positional.upper()}]" if command.positional else ""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                kind,
                prog=f"fastad {name}{bare}",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
                **default,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_first_line(complaint.getvalue())}; see fastad {name} --help") from None
    _check_sizes(config)
    return config


def _check_sizes(config: Any) -> None:
    """Refuse numbers that are no number of anything, and that neither C++ nor a disk can hold."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            _check_sizes(value)
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise UserError(f"{field.name}={value} is too large; use less than 2^40")


def _settings(kind: Any) -> Iterator[Field[Any]]:
    """Every setting of a command, those of nested dataclasses included."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _settings(hints[field.name])
        else:
            yield field


def _flags(kind: Any) -> set[str]:
    """Every flag of a command."""
    flags = {"--help", "--config"}
    for setting in _settings(kind):
        flag = setting.name.replace("_", "-")
        flags |= {f"--{flag}"}
        if setting.type in ("bool", bool):
            flags |= {f"--no-{flag}"}
    return flags


def _by_todays_names(arguments: list[str], flags: set[str]) -> list[str]:
    """Take flags by their earlier names, too, and say so once."""
    renamed = {f"--{old}": f"--{new}" for old, new in RENAMED.items() if f"--{new}" in flags}
    parts = [argument.partition("=") for argument in arguments]
    for old in dict.fromkeys(flag for flag, _, _ in parts if flag in renamed):
        print(f"fastad: {old} is now {renamed[old]}", file=sys.stderr)
    return [renamed.get(flag, flag) + equals + value for flag, equals, value in parts]


def _check_flags(name: str, flags: set[str], arguments: list[str]) -> None:
    """Refuse flags that do not exist, with the nearest that does."""
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in flags:
            raise unknown(f"option of fastad {name}:", flag, flags)


def _unwrap_help(kind: Any) -> None:
    """Give tyro each field's docstring without the source's line breaks, which it would keep."""
    import docstring_parser

    hints = get_type_hints(kind)
    texts = {p.arg_name: p.description for p in docstring_parser.parse_from_object(kind).params}
    for field in fields(kind):
        text = " ".join((texts.get(field.name) or "").split())
        field.metadata = MappingProxyType({**field.metadata, "help": text})
        if is_dataclass(hints[field.name]):
            _unwrap_help(hints[field.name])


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


def _take_config(arguments: list[str]) -> tuple[list[str], str | None]:
    """Split `--config NAME` off the arguments."""
    for index, argument in enumerate(arguments):
        if argument == "--config":
            if index + 1 == len(arguments):
                raise UserError("--config needs a YAML file or the name of a preset")
            return arguments[:index] + arguments[index + 2 :], arguments[index + 1]
        if argument.startswith("--config="):
            return arguments[:index] + arguments[index + 1 :], argument.partition("=")[2]
    return arguments, None


def _load(name: str, kind: type[Any], source: str) -> Any:
    from fastad.base.config import load_config
    from fastad.presets import preset_for

    if Path(source).suffix in (".yaml", ".yml") or len(Path(source).parts) > 1:
        return load_config(Path(source), name, kind)
    return preset_for(source, name)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return (
        "usage: fastad COMMAND [options]\n\nAlgorithm Distillation: train a transformer on "
        "learning histories; with frozen weights it then\nlearns new tasks in its context.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n" + EXAMPLES
    )
