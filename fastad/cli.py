"""The command line: which command, which config, and what its errors look like."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fastad import __version__
from fastad.errors import UserError, unknown


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
    "doctor": Command("DoctorConfig", "run_doctor", "", "what this machine can use"),
}

EXAMPLES = """\
examples:
  fastad demo                               watch in-context learning happen
  fastad collect data/dark-room --env dark-room --source frontier
  fastad train data/dark-room --out runs/dark-room
  fastad rollout runs/dark-room --kv-cache
  fastad train data/dark-room --config paper-dark   (a preset, or a YAML file)

`fastad COMMAND --help` explains every option of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, 2 after an error that the user can put right, 130 after Ctrl-C.
    """
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"fastad: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastad: interrupted; what was committed is kept, continue with --resume",
              file=sys.stderr)  # fmt: skip
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
    function(parse(name, rest))
    return 0


def parse(name: str, arguments: list[str]) -> Any:
    """Build a command's config from a preset or file, if any, and the flags that override it."""
    import tyro

    command = COMMANDS[name]
    kind = getattr(import_module(f"fastad.commands.{name}"), command.config)
    arguments, source = _take_config(arguments)
    default = kind() if source is None else _load(name, kind, source)
    if arguments and command.positional and not arguments[0].startswith("-"):
        arguments = [f"--{command.positional}", *arguments]
    bare = f" [{command.positional.upper()}]" if command.positional else ""
    return tyro.cli(
        kind,
        prog=f"fastad {name}{bare}",
        args=arguments,
        default=default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
    )


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

    if Path(source).suffix in (".yaml", ".yml") or Path(source).exists():
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
