"""The command line: which command runs, what its errors look like, and how it is continued."""

import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from fastad.base.errors import (
    CheckFailedError,
    UserError,
    memory_error,
    os_error,
    printable,
    unknown,
)
from fastad.base.interrupt import Stopped, stop_signals
from fastad.base.launched import first_speaks, launched
from fastad.base.provenance import versions
from fastad.base.trust import trusting
from fastad.cli.flags import names_typed, parse
from fastad.cli.table import COMMANDS, overview


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
        return _complain(f"{how}; {_noted(stop) or _way_on(given)}", 128 + number)


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


def _noted(stop: KeyboardInterrupt) -> str:
    """How to continue, where the command has noted it with what stopped it."""
    return next((note for note in getattr(stop, "__notes__", ()) if "go on with: " in note), "")


def _way_on(arguments: list[str]) -> str:
    """How to continue a command that was stopped."""
    command = COMMANDS.get(arguments[0] if arguments else "")
    if command is None or command.continued is None:
        return f"start again with: {shlex.join(['fastad', *arguments])}"
    if any(argument.partition("=")[0] == "--extend" for argument in arguments):
        # Again it would extend the run again; its config has the new length.
        config = parse(arguments[0], arguments[1:]).folder / "config.yaml"
        arguments = [arguments[0], "--config", str(config)]
    kept = [a for a in arguments if a not in ("--overwrite", "--no-resume", *command.continued)]
    end = kept.index("--") if "--" in kept else len(kept)
    way_on = [*launched().command, *kept[:end], *command.continued, *kept[end:]]
    return f"what was finished is kept; go on with: {shlex.join(way_on)}"


def _main(arguments: list[str]) -> None:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    if arguments[0] in ("-V", "--version", "version"):
        print(versions())
        return
    with first_speaks():
        name, config = _command(arguments)
    module = import_module(f"fastad.commands.{name}")
    function = getattr(module, COMMANDS[name].function)
    with trusting(names_typed(name, arguments[1:])), _libraries_speak(), _settings_named(config):
        function(config)


def _command(arguments: list[str]) -> tuple[str, Any]:
    """The command that is asked for, and its config."""
    name, rest = arguments[0], arguments[1:]
    if name.startswith("-"):
        raise UserError(f"{name} stands before the command; write fastad COMMAND {name} ...")
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    if launched().size > 1 and not COMMANDS[name].ranks:
        raise UserError(
            f"fastad {name} is for one process, and WORLD_SIZE={launched().size}; "
            "leave torchrun out"
        )
    return name, parse(name, rest)


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
    """Show what the verbs have to say, and the kernels: which are used, and why; of ranks one."""
    if launched().rank > 0:
        yield
        return
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
