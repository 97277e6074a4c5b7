"""Packages that fastad can do without: importing them, and how to install them."""

import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError


def import_extra(module: str, extra: str, what: str) -> Any:
    """A module of a package that comes with an extra.

    Args:
        module: Its name.
        extra: Of fastad.
        what: That needs it; begins the error.

    Raises:
        UserError: If it is not installed; the message is the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise UserError(
            f"{what} needs {missing}; install it with: {how_to_install(extra)}"
        ) from error


def how_to_install(extra: str) -> str:
    """The command that installs an extra into this very environment, in one line.

    In a checkout it keeps to the versions that `make` installs.
    """
    home = Path(__file__).parents[2]
    pip, constraints = f"{shlex.quote(sys.executable)} -m pip install", home / "constraints.txt"
    if not constraints.is_file():
        return f"{pip} 'fastad[{extra}]'"
    where = shlex.quote(f"{home}[{extra}]")
    return f"{pip} --constraint {shlex.quote(str(constraints))} --editable {where}"
