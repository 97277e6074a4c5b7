"""Environments by name: the one list that the command line, datasets and Gymnasium follow.

A name with a colon is an environment from outside, see `fastad.envs.gym_in`: `gym:CartPole-v1` or
`package.module:callable`. Families are named, not imported: `import fastad` registers them with
Gymnasium without torch.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

from fastad.base.errors import UserError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from fastad.envs.family import TaskFamily

# Module and class of each family. Gymnasium calls it by its class: fastad/DarkRoom-v0.
ENVS: dict[str, str] = {
    "bernoulli-bandit": "fastad.envs.bandits:BernoulliBandit",
    "gaussian-bandit": "fastad.envs.bandits:GaussianBandit",
    "adversarial-bandit": "fastad.envs.bandits:AdversarialBandit",
    "dark-room": "fastad.envs.dark_room:DarkRoom",
    "dark-room-hard": "fastad.envs.dark_room:DarkRoomHard",
    "dark-room-permuted": "fastad.envs.dark_room:DarkRoomPermuted",
    "dark-key-to-door": "fastad.envs.key_to_door:DarkKeyToDoor",
    "point-mass": "fastad.envs.point_mass:PointMass",
    "watermaze": "fastad.envs.watermaze:Watermaze",
}

# Classes that do nothing but what they are for, whatever they are given. MuJoCo's read files.
OF_GYMNASIUM = tuple(f"gymnasium.envs.{kind}." for kind in ("classic_control", "toy_text", "box2d"))

OUTSIDE = "fastad.envs.gym_in:Gym"  # the family of every name with a colon

MAX_OPTION = 2**31 - 1
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def family_class(name: str) -> type[TaskFamily]:
    """The family called `name`.

    Raises:
        UserError: If there is none; the message proposes the nearest name.
    """
    if not is_known(name):
        raise unknown("env", name, ENVS)
    module, kind = ENVS.get(name, OUTSIDE).split(":")
    family: type[TaskFamily] = getattr(import_module(module), kind)
    return family


def is_outside(name: str) -> bool:
    """Whether an environment is one from outside, whose own arguments are options as well."""
    return ":" in name


def is_known(name: str) -> bool:
    """Whether a name is that of an environment: histories may be of one that is nowhere here."""
    return name in ENVS or is_outside(name)


def runs_code(name: str) -> bool:
    """Whether making an environment runs what is neither fastad's nor Gymnasium's own."""
    if not is_outside(name):
        return False
    spec = gymnasium.registry.get(name.removeprefix("gym:")) if name.startswith("gym:") else None
    entry = None if spec is None else spec.entry_point
    return not (isinstance(entry, str) and entry.startswith(OF_GYMNASIUM))


def env_options(name: str) -> dict[str, Any]:
    """The options of the environment called `name`, with their defaults."""
    if is_outside(name):
        from fastad.envs.gym_in import OPTIONS

        return dict(OPTIONS)
    return {field.name: field.default for field in fields(family_class(name))}


def make_family(name: str, /, **options: Any) -> TaskFamily:
    """The family called `name`, with these of its options and the defaults of the others.

    Raises:
        UserError: If the name, an option or its value is not possible, naming the nearest valid
            one or the type that the value must have.
    """
    if is_outside(name):
        outside: Any = family_class(name)
        family: TaskFamily = outside(name, **options)
        return family
    valid = env_options(name)
    for option, value in options.items():
        if option not in valid:
            raise unknown(f"option of {name}", option, valid)
        kind = type(valid[option])
        allowed = (int, float) if kind is float else (kind,)
        # bool is a subclass of int, but true is no size.
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            shown = reprlib.repr(value)
            raise UserError(f"{option}={shown} of {name} must be {_KINDS[kind]}")
        if kind is not str and abs(value) > MAX_OPTION:
            shown = reprlib.repr(value)
            raise UserError(f"{option}={shown} of {name} must lie within +-{MAX_OPTION:,}")
    return family_class(name)(**options)


def stored_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as datasets keep them: what they name files of is read in."""
    if not is_outside(name) or "tasks" not in options:
        return dict(options)
    from fastad.envs.gym_tasks import read_in

    return {**options, "tasks": read_in(options["tasks"], f"env={name}")}


def gymnasium_id(name: str) -> str:
    """What Gymnasium calls the environment called `name`; "" where it knows none."""
    if is_outside(name):
        return name.removeprefix("gym:") if name.startswith("gym:") else ""
    return f"fastad/{ENVS[name].split(':')[1]}-v0"


def register_envs() -> None:
    """Make every environment known to `gymnasium.make` and `make_vec`; repeating it is harmless."""
    for name in ENVS:
        if gymnasium_id(name) not in gymnasium.registry:
            gymnasium.register(
                gymnasium_id(name),
                entry_point="fastad.envs.gym_out:GymEnv",
                vector_entry_point="fastad.envs.gym_out:GymVectorEnv",
                kwargs={"env": name},
            )


def check_env(wanted: str | None, found: str, where: Path) -> None:
    """Refuse data of another environment than the settings are for."""
    if wanted not in (None, found):
        raise UserError(
            f"env={wanted} is what these settings are for, and {where} is of {found}; choose a "
            f"preset for that (`fastad presets` lists them), or use them all the same with "
            f"--env {found}"
        )
