"""The command line: which command, which config, and what its errors look like."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from fastad import __version__
from fastad.errors import CheckFailedError, UserError, unknown


@dataclass(frozen=True)
class Command:
    """Where a command lives, and what its first bare argument means."""

    config: str
    function: str
    positional: str
    summary: str


COMMANDS = {
    "demo": Command("DemoConfig", "run_demo", "preset", "all of it, end to end, in minutes"),
    "collect": Command("CollectConfig", "run_collect", "out", "source + env -> learning histories"),
    "train": Command("TrainConfig", "run_train", "data", "learning histories -> run folder"),
    "rollout": Command("RolloutConfig", "run_rollout", "run", "frozen weights on unseen tasks"),
    "inspect": Command("InspectConfig", "run_inspect", "path", "what is in a dataset or run"),
    "bench": Command("BenchConfig", "run_bench", "questions", "speed and memory beside peers"),
    "doctor": Command("DoctorConfig", "run_doctor", "", "what this machine can use"),
}

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
        0, 1 if a check of correctness failed, 2 after an error that the user can put right, 130
        after Ctrl-C, 141 if nobody reads the output any more.
    """
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"fastad: {error}", file=sys.stderr)
        return 2
    except CheckFailedError as error:
        print(f"fastad: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output, `head` perhaps, has seen enough.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 141
    except KeyboardInterrupt:
        print("fastad: interrupted; what was finished is kept", file=sys.stderr)
        return 130


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"fastad {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module = import_module(f"fastad.commands.{name}")
    function = getattr(module, COMMANDS[name].function)
    config = parse(name, rest)
    with _kernels_speak():
        function(config)
    return 0


@contextlib.contextmanager
def _kernels_speak() -> Iterator[None]:
    """Show what the kernels have to say: which are used, and why; that they are being compiled."""
    logger, handler = logging.getLogger("fastad_kernels"), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
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
    _check_flags(name, kind, arguments)
    _unwrap_help(kind)
    bare = f" [{command.positional.upper()}]" if command.positional else ""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
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


def _settings(kind: Any) -> Iterator[Field[Any]]:
    """Every setting of a command, those of nested dataclasses included."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _settings(hints[field.name])
        else:
            yield field


def _check_flags(name: str, kind: Any, arguments: list[str]) -> None:
    """Refuse flags that do not exist, with the nearest that does."""
    flags = {"--help", "--config"}
    for setting in _settings(kind):
        flag = setting.name.replace("_", "-")
        flags |= {f"--{flag}"}
        if setting.type in ("bool", bool):
            flags |= {f"--no-{flag}"}
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
    from fastad.config import load_config
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
