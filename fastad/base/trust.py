"""Code that files name, as env="treasure:make": run only where the user asked for it.

A dataset, a run or a config may come from anybody, and importing a module runs it. So what a file
names is imported only if the user typed the name too, or had this very call made before: that is
remembered in the user's own folder, as digests.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from fastad.base.errors import UserError, os_reason

VARIABLE = "FASTAD_TRUST"  # names with commas between, for this process and those that it starts
PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
MAX_BYTES = 2**24  # of what is remembered: 250,000 calls
_asked: set[str] = set()  # digests of what this process was asked for by its own program

_logger = logging.getLogger(__name__)


class Call(NamedTuple):
    """Code that a file names, and what it would be called with.

    Attributes:
        field: Where the file names it, "env" or "source".
        names: Every "module:callable" in it, as it stands there.
        arguments: Plain JSON values.
    """

    field: str
    names: tuple[str, ...]
    arguments: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of the call, and of which files its modules are: another folder has another treasure."""
        modules = {name: _origin(name) for name in self.names}
        text = json.dumps([self.field, modules, self.arguments], sort_keys=True, default=repr)
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def names_within(value: Any) -> list[str]:
    """Every text of the form "module:NAME" within plain values."""
    if isinstance(value, str):
        return [value] if PLACE.fullmatch(value) else []
    if isinstance(value, dict):
        value = list(value.values())
    return [name for item in value for name in names_within(item)] if _is_list(value) else []


def check_calls(calls: Sequence[Call], where: str) -> None:
    """Refuse code that a file names and the user did not.

    Args:
        calls: All that the file names.
        where: The file or folder, for the error.

    Raises:
        UserError: Naming the code, and how to have it run.
    """
    typed = trusted()
    missing = [call for call in calls if not typed.issuperset(call.names)]
    known = _asked | _remembered() if missing else set()
    unknown = [call for call in missing if call.digest not in known]
    remember(call for call in calls if typed.issuperset(call.names))  # asked once
    if unknown:
        names = ",".join(dict.fromkeys(name for call in unknown for name in call.names))
        told = ", ".join(f"{call.field}={' '.join(call.names)}" for call in unknown)
        raise UserError(
            f"{where} names code to be run, {told}, which you have not run from here before; if "
            f"you trust it, add --trust {names}, or set {VARIABLE}={names}"
        )


def remember(calls: Iterable[Call]) -> None:
    """Keep that the user asked for these very calls: files may name them from now on."""
    new = {call.digest for call in calls} - _asked
    _asked.update(new)
    new -= _remembered() if new else set()
    if not new:
        return
    file = _store()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(file, flags, 0o600), "a") as stream:
            stream.write("".join(f"{digest}\n" for digest in sorted(new)))
    except OSError as error:
        _logger.info(f"{file}: {os_reason(error)}; what was run is not remembered there")


def trusted() -> frozenset[str]:
    """The names that the user typed."""
    return frozenset(name for name in os.environ.get(VARIABLE, "").split(",") if name)


@contextlib.contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """Within the block, and in processes started there, files may name these."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*trusted(), *names]))
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _store() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "fastad" / "calls"


def _remembered() -> set[str]:
    """The digests in the user's own file; nothing in one that somebody else may have written."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(_store(), flags), "rb") as stream:
            status = os.fstat(stream.fileno())
            is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if not (is_own and stat.S_ISREG(status.st_mode)) or status.st_mode & 0o022:
                _logger.info(f"{_store()} is not yours alone to write to, and is not read")
                return set()
            return set(stream.read(MAX_BYTES).decode("ascii", "replace").split())
    except OSError:
        return set()


def _origin(name: str) -> str:
    """The file of the module that a name begins with, found without running anything; or ""."""
    module = name.rpartition(":")[0].rpartition(":")[2].partition(".")[0]
    if module == "__main__":
        return os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "")
    try:
        found = PathFinder.find_spec(module, [*sys.path, os.getcwd()]) if module else None
    except (ImportError, ValueError, OSError):
        return ""
    return os.path.realpath(found.origin) if found is not None and found.origin else ""


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
