"""Environments by name, and their construction from what a user wrote."""

import inspect
from typing import Any

import torch
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.envs.bandits import AdversarialBandit, BernoulliBandit, GaussianBandit
from fastad.envs.base import BatchedEnv
from fastad.envs.dark_room import DarkRoom, DarkRoomHard, DarkRoomPermuted
from fastad.envs.key_to_door import DarkKeyToDoor

ENVS: dict[str, type[BatchedEnv]] = {
    env.name: env
    for env in (
        BernoulliBandit,
        GaussianBandit,
        AdversarialBandit,
        DarkRoom,
        DarkRoomHard,
        DarkRoomPermuted,
        DarkKeyToDoor,
    )
}


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def env_class(name: str) -> type[BatchedEnv]:
    """The environment class called `name`.

    Raises:
        UserError: If there is none; the message proposes the nearest name.
    """
    if name not in ENVS:
        raise unknown("env", name, ENVS)
    return ENVS[name]


def env_options(name: str) -> dict[str, Any]:
    """The keyword arguments of the environment called `name`, with their defaults."""
    parameters = inspect.signature(env_class(name)).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in ("tasks", "generator")
    }


def check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse keyword arguments that the environment called `name` does not have.

    Raises:
        UserError: Naming the nearest valid one, or the type that the value must have.
    """
    valid = env_options(name)
    for option, value in options.items():
        if option not in valid:
            raise unknown(f"option of {name}", option, valid)
        kind = type(valid[option])
        allowed = (int, float) if kind is float else (kind,)
        # bool is a subclass of int, but true is no size.
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{option}={value!r} of {name} must be {_KINDS[kind]}")


def make_env(name: str, tasks: Tensor, *, generator: torch.Generator, **kwargs: Any) -> BatchedEnv:
    """Build the environment called `name` for `tasks`.

    Args:
        name: A key of `ENVS`.
        tasks: (N, K), on the device that everything shall live on.
        generator: The only source of randomness, on the same device.
        **kwargs: The environment's own keyword arguments, see `env_options`.

    Raises:
        UserError: If the name, an option, its value or a task is not possible.
    """
    check_options(name, kwargs)
    return env_class(name)(tasks, generator=generator, **kwargs)
