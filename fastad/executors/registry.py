"""Executors by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fastad.base.config import from_plain
from fastad.base.errors import UserError, unknown
from fastad.executors.base import Executor
from fastad.executors.local import Local
from fastad.executors.ray import Ray
from fastad.executors.slurm import Slurm

EXECUTORS: dict[str, type[Executor]] = {"local": Local, "ray": Ray, "slurm": Slurm}


def make_executor(name: str, options: Mapping[str, Any]) -> Executor:
    """An executor with options; nothing is started.

    Raises:
        UserError: For a name that is not one of `EXECUTORS`, options that it does not have or
            cannot have, or what is not installed.
    """
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    if options and not fields(EXECUTORS[name]):  # type: ignore[arg-type]
        raise UserError(f"executor={name} has no options; leave --executor-options out")
    executor = from_plain(dict(options), EXECUTORS[name], f"executor_options of {name}")
    executor.check()
    return executor
