"""Packages that fastad can do without: how to install them."""

import shlex
import sys
from pathlib import Path


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
