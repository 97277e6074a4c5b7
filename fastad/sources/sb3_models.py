"""Stable-Baselines3's classes: by name, with their options, and made for an environment."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from fastad.base.errors import UserError, unknown
from fastad.base.extras import how_to_install

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

PREFIX = "sb3:"
# Arguments of the classes that are no options: which follow from what is learnt, or change nothing.
GIVEN = ("self", "policy", "env", "seed", "device", "_init_setup_model")
SILENT = ("verbose", "tensorboard_log", "stats_window_size")
A_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def algorithm_names() -> list[str]:
    """Stable-Baselines3's own algorithms, as sources.

    Raises:
        UserError: If it is not installed.
    """
    sb3 = _stable_baselines3()
    base = import_module("stable_baselines3.common.base_class").BaseAlgorithm
    found = (getattr(sb3, name) for name in dir(sb3))
    kinds = [kind for kind in found if isinstance(kind, type) and issubclass(kind, base)]
    return [f"{PREFIX}{kind.__name__}" for kind in kinds]


def find_class(name: str) -> type[BaseAlgorithm]:
    """The class of the source called `name`, "sb3:PPO" or "sb3:package.module:Class".

    Raises:
        UserError: If there is none, or Stable-Baselines3 is not installed.
    """
    sb3, where = _stable_baselines3(), name.removeprefix(PREFIX)
    if ":" not in where:
        if name not in algorithm_names():
            raise unknown("source", name, algorithm_names())
        kind: type[BaseAlgorithm] = getattr(sb3, where)
        return kind
    found = find_place(where, f"source {name!r}")
    base = import_module("stable_baselines3.common.base_class").BaseAlgorithm
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"source {name!r} is {found!r}, no class of Stable-Baselines3's algorithms")
    return found


def find_place(where: str, field: str) -> Any:
    """What "package.module:NAME" stands for.

    Raises:
        UserError: If nothing is there, naming the `field`.
    """
    module, _, attribute = where.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{field} is not there: {error}; write package.module:NAME") from error


def options_of(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """The arguments of a class that a user may choose, with their defaults.

    What has a default that JSON cannot hold is left out.
    """
    arguments = inspect.signature(algorithm).parameters.values()
    options: dict[str, Any] = {"policy": None}
    for argument in arguments:
        if argument.name not in (*GIVEN, *SILENT) and _is_plain(argument.default):
            options[argument.name] = argument.default
    return options


def build(
    algorithm: type[BaseAlgorithm],
    env: VecEnv,
    *,
    is_whole: bool = True,
    seed: int = 0,
    room: int | None = None,
    **options: Any,
) -> BaseAlgorithm | None:
    """Make a model; None if its class does not act in the action space of `env`.

    Args:
        algorithm: Its class.
        env: What it learns in.
        is_whole: Whether it is made with networks and buffers.
        seed: Of everything random.
        room: The most steps that a replay buffer is made for.
        **options: See `options_of`.

    Raises:
        UserError: For options or an observation space that the class refuses.
    """
    parameters = inspect.signature(algorithm).parameters
    given: dict[str, Any] = {"seed": seed, "device": "cpu", "_init_setup_model": is_whole}
    given = {name: value for name, value in given.items() if name in parameters}
    given |= {name: _meant(value, name) for name, value in options.items()}
    if "buffer_size" in parameters and room is not None:
        given["buffer_size"] = min(
            given.get("buffer_size", parameters["buffer_size"].default), room
        )
    if isinstance(given.get("action_noise"), int | float):
        given["action_noise"] = _normal_noise(env.action_space, given["action_noise"])
    is_dict = isinstance(env.observation_space, spaces.Dict)
    if is_dict:
        given["policy_kwargs"] = _reading_parts(env.observation_space, given.get("policy_kwargs"))
    policy = given.pop("policy", None) or ("MultiInputPolicy" if is_dict else "MlpPolicy")
    try:
        return algorithm(policy, env, **given)
    except Exception as error:
        # Classes from anywhere raise anything, and nothing else tells which spaces they take.
        if isinstance(error, AssertionError) and "as action spaces" in str(error):
            return None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"source {PREFIX}{algorithm.__name__} cannot be made for observations in "
            f"{env.observation_space} and actions in {env.action_space}: {reason}; change the "
            "source options, or choose another source"
        ) from error


def together(envs: Sequence[gymnasium.Env[Any, Any]]) -> VecEnv:
    """Environments as Stable-Baselines3 takes them."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]


def _reading_parts(space: gymnasium.Space[Any], chosen: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of a policy that reads a Dict, with images of any size where none were chosen."""
    from fastad.sources.sb3_parts import Parts, has_small_images

    usual = {"features_extractor_class": Parts} if has_small_images(space) else {}
    return usual | (chosen or {})


def _meant(value: Any, field: str) -> Any:
    """A value as the classes take it: lists as tuples, and what module:NAME stands for."""
    if isinstance(value, list):
        return tuple(_meant_within(item, field) for item in value)
    return _meant_within(value, field)


def _meant_within(value: Any, field: str) -> Any:
    if isinstance(value, dict):
        return {key: _meant_within(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, str) and A_PLACE.fullmatch(value):
        return find_place(value, f"{field}={value}")
    return value


def _normal_noise(space: gymnasium.Space[Any], deviation: float) -> Any:
    from stable_baselines3.common.noise import NormalActionNoise

    assert space.shape is not None
    return NormalActionNoise(np.zeros(space.shape), np.full(space.shape, deviation))


def _is_plain(default: Any) -> bool:
    try:
        json.dumps(default)
    except TypeError:
        return False
    return True


def _stable_baselines3() -> Any:
    try:
        return import_module("stable_baselines3")
    except ImportError as error:
        raise UserError(
            f"sources sb3:CLASS need Stable-Baselines3, which is not installed: run "
            f"{how_to_install('sb3')}"
        ) from error
