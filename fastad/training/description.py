"""A model as words: what a checkpoint says of it beside its weights."""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastad.base.config import from_plain
from fastad.base.errors import UserError, unknown
from fastad.envs.family import TaskFamily
from fastad.envs.registry import ENVS, make_family
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.spaces import space_from_json, space_to_json
from fastad.training.checkpoint_folder import DAMAGED, DESCRIPTION, MODEL

MAX_NUMBER = 1e30  # in a description
# 1: without digests, optimiser states by position. 2: parameters by their earlier names.
FORMAT_VERSION = 3


def build_for(
    weights: Mapping[str, Tensor], description: dict[str, Any], folder: Path
) -> SequenceModel:
    """A model of a description, once it is of these very weights: they are there, it is words.

    Args:
        weights: By the names that they have now.
        description: That `describe` gave.
        folder: The checkpoint that both are from, for errors.

    Raises:
        UserError: If it is no description, or of other weights.
    """
    file = folder / DESCRIPTION
    # Without memory for any weight.
    with _Imagined():
        imagined = _build(description, file, max_layers=len(weights)).state_dict()
    shapes = {name: tensor.shape for name, tensor in imagined.items()}
    for name in sorted(shapes.keys() | weights.keys()):
        told, there = shapes.get(name), weights[name].shape if name in weights else None
        if told != there:
            raise UserError(
                f"{folder / MODEL} does not fit its {DESCRIPTION}: {name} is {_size(there)}, not "
                f"{_size(told)}"
            )
    return _build(description, file)


class _Imagined(TorchFunctionMode):
    """Gives weights no memory and draws none; everything else is as ever."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.empty:  # as modules of PyTorch make their weights
            given = given | {"device": "meta"}
        elif getattr(func, "__name__", "") in ("normal_", "uniform_"):
            # There is nothing to be drawn; on that device it would take seconds.
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _size(shape: torch.Size | None) -> str:
    return "missing" if shape is None else f"of shape {tuple(shape)}"


def _build(
    description: dict[str, Any], file: Path, *, max_layers: int | None = None
) -> SequenceModel:
    """A model of the description that `describe` gave."""
    check_version(description, file)
    try:
        config = from_plain(description["config"], ModelConfig, f"{file}: config")
        if max_layers is not None and config.num_layers > max_layers:
            raise UserError(f"{file}: num_layers={config.num_layers} has no weights; {DAMAGED}")
        return SequenceModel(
            config,
            space_from_json(description["observation_space"]),
            space_from_json(description["action_space"]),
            int(_number(description, "episode_length", low=1)),
            reward_shift=_number(description, "reward_shift"),
            reward_scale=_number(description, "reward_scale"),
            # Not in earlier versions, as the next.
            squash=bool(description.get("squash", False)),
            family=_family(description),
            auxiliary=bool(description.get("auxiliary", False)),
            value=bool(description.get("value", False)),
            return_scale=(
                None
                if description.get("return_scale") is None
                else _number(description, "return_scale")
            ),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not a fastad model: {error!r}") from error


def _number(description: dict[str, Any], name: str, *, low: float = -MAX_NUMBER) -> float:
    """A field that is a number of a size that occurs.

    Raises:
        TypeError: If it is anything else.
        KeyError: If it is missing.
    """
    value: object = description[name]
    if not isinstance(value, int | float) or not low <= value <= MAX_NUMBER:
        raise TypeError(f"{name}={reprlib.repr(value)}")
    return float(value)


def _family(description: dict[str, Any]) -> TaskFamily | None:
    """Of the environments that a model is for, if what it reads depends on them."""
    env = description.get("env")
    if env is None:
        return None
    if env not in ENVS:
        raise unknown("env", env, ENVS)  # others show what is stored, and name code
    return make_family(env, **description["env_kwargs"])


def check_version(description: dict[str, Any], file: Path) -> None:
    """Refuse a description, from `file`, of a version that is not known."""
    version = description.get("format_version")
    if version not in (1, 2, FORMAT_VERSION):
        raise UserError(
            f"{file}: format_version={version}, but this fastad reads {FORMAT_VERSION}; upgrade "
            "fastad or train again"
        )


def describe(model: SequenceModel) -> dict[str, Any]:
    """What `build_for` makes the same model of, but its weights; plain values."""
    family = model.family
    needs_family = family is not None and (model.auxiliary or family.spec().shown_space is not None)
    return {
        "format_version": FORMAT_VERSION,
        "config": asdict(model.config),
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
        "episode_length": model.episode_length,
        "reward_shift": model.reward_shift,
        "reward_scale": model.reward_scale,
        "squash": model.squash,
        "env": family.name if needs_family and family is not None else None,
        "env_kwargs": asdict(family) if needs_family and family is not None else {},
        "auxiliary": len(model.auxiliary) > 0,
        "value": model.heads.value is not None,
        "return_scale": model.return_scale,
    }
