"""Checkpoints: safetensors and JSON, each held to its digest; loading executes no code."""

import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastad.base.config import from_plain
from fastad.base.errors import UserError, unknown
from fastad.envs.family import TaskFamily
from fastad.envs.registry import ENVS, make_family
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.spaces import space_from_json, space_to_json
from fastad.training.checkpoint_folder import (
    DAMAGED,
    DESCRIPTION,
    KEEP,
    MODEL,
    OPTIMIZER,
    STATE,
    find_checkpoint,
    read_checkpoint,
    way_on,
    write_checkpoint,
)
from fastad.training.optimizers import named_state, restore_state

MAX_NUMBER = 1e30  # in a description
# 1: without digests, optimiser states by position. 2: parameters by their earlier names.
FORMAT_VERSION = 3
# How parameters were called before the model had slots: by prefix, then and now. No name of now
# begins as one of then did.
EARLIER_NAMES = {
    "embedding.": "encoder.",
    "blocks.": "trunk.blocks.",
    "final_norm.": "heads.norm.",
    "head.": "heads.policy.",
}


def save_checkpoint(
    run: Path,
    step: int,
    model: SequenceModel,
    optimizers: list[torch.optim.Optimizer],
    *,
    train_seconds: float,
    keep: int = KEEP,
) -> Path:
    """Write checkpoints/step-XXXXXXXX under `run`; it appears whole or not at all.

    Args:
        run: The run folder, which nobody else writes to.
        step: Updates done.
        model: Its weights, config and spaces are stored.
        optimizers: Their state is stored, for an exact resume.
        train_seconds: Spent on the updates so far.
        keep: Newest checkpoints that stay.
    """
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files = {
        MODEL: save(weights),
        OPTIMIZER: save(_optimizer_tensors(model, optimizers)),
        DESCRIPTION: json.dumps(_describe(model), indent=2).encode(),
        STATE: json.dumps({"step": step, "train_seconds": train_seconds}).encode(),
    }
    return write_checkpoint(run, step, files, keep=keep)


def load_model(path: Path) -> SequenceModel:
    """Rebuild the model of a checkpoint or of a run's newest checkpoint, in evaluation mode.

    Raises:
        UserError: If it is not a fastad checkpoint, or damaged; the message names the way on.
    """
    return load_model_of_update(path)[0]


def load_model_of_update(path: Path) -> tuple[SequenceModel, int | None]:
    """As `load_model`, and the update that the checkpoint is of; None where it does not tell."""
    while True:
        folder = find_checkpoint(path)
        try:
            model, update = _load_from(folder)
            return model.eval(), update
        except UserError:
            # A training that goes on deletes what was its newest checkpoint a moment ago.
            if folder.exists():
                raise


def _load_from(folder: Path) -> tuple[SequenceModel, int | None]:
    with _way_on_named(folder):
        files, update = read_checkpoint(folder, DESCRIPTION, MODEL)
        tensors = _parse_weights(files[MODEL], folder / MODEL)
        description = _parse_json(files[DESCRIPTION], folder / DESCRIPTION)
        model = _build_for(tensors, description, folder)
        _load_weights(model, tensors, folder)
    return model, update


def load_training_state(
    folder: Path, model: SequenceModel, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Restore weights and optimiser states in place; returns (updates done, train seconds).

    Raises:
        UserError: If a file of the checkpoint is damaged; the message names the way on.
    """
    with _way_on_named(folder):
        files, step = read_checkpoint(folder, DESCRIPTION, MODEL, OPTIMIZER, STATE)
        if step is None:
            raise UserError(
                f"{folder} is of a fastad that stored optimiser states by position, which no "
                "longer fit; it can be rolled out"
            )
        _check_version(_parse_json(files[DESCRIPTION], folder / DESCRIPTION), folder / DESCRIPTION)
        _load_weights(model, _parse_weights(files[MODEL], folder / MODEL), folder)
        tensors = _parse_tensors(files[OPTIMIZER], folder / OPTIMIZER)
        restore_state(model, optimizers, _by_parameter(tensors), folder / OPTIMIZER)
        seconds = _parse_json(files[STATE], folder / STATE).get("train_seconds")
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            shown = reprlib.repr(seconds)
            raise UserError(f"{folder / STATE}: train_seconds={shown} is no time; {DAMAGED}")
    return step, float(seconds)


@contextmanager
def _way_on_named(folder: Path) -> Iterator[None]:
    """Let an error about a checkpoint end with what can be done instead."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {way_on(folder)}") from error


def _build_for(
    weights: Mapping[str, Tensor], description: dict[str, Any], folder: Path
) -> SequenceModel:
    """A model of a description, once it is of these very weights: they are there, it is words."""
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
    """A model of the description that `_describe` gave."""
    _check_version(description, file)
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


def _check_version(description: dict[str, Any], file: Path) -> None:
    version = description.get("format_version")
    if version not in (1, 2, FORMAT_VERSION):
        raise UserError(
            f"{file}: format_version={version}, but this fastad reads {FORMAT_VERSION}; upgrade "
            "fastad or train again"
        )


def _family(description: dict[str, Any]) -> TaskFamily | None:
    """Of the environments that a model is for, if what it reads depends on them."""
    env = description.get("env")
    if env is None:
        return None
    if env not in ENVS:
        raise unknown("env", env, ENVS)  # others show what is stored, and name code
    return make_family(env, **description["env_kwargs"])


def _describe(model: SequenceModel) -> dict[str, Any]:
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


def _now_called(name: str) -> str:
    for earlier, now in EARLIER_NAMES.items():
        if name.startswith(earlier):
            return now + name.removeprefix(earlier)
    return name


def _optimizer_tensors(
    model: SequenceModel, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Optimiser states by "FIELD.PARAMETER"."""
    return {
        f"{field}.{name}": tensor.contiguous()
        for name, fields in named_state(model, optimizers).items()
        for field, tensor in fields.items()
    }


def _by_parameter(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """States by the name of their parameter, from `_optimizer_tensors` of now or earlier."""
    kept: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        field, _, name = key.partition(".")
        kept.setdefault(_now_called(name), {})[field] = tensor
    return kept


def _load_weights(model: SequenceModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{folder / MODEL} does not fit its {DESCRIPTION}: {error}") from error


def _parse_weights(content: bytes, file: Path) -> dict[str, Tensor]:
    """Weights by the names that they have now."""
    return {_now_called(name): tensor for name, tensor in _parse_tensors(content, file).items()}


def _parse_tensors(content: bytes, file: Path) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as error:
        raise UserError(f"{file} is missing or damaged ({error}); {DAMAGED}") from error


def _parse_json(content: bytes, file: Path) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); {DAMAGED}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a JSON object; {DAMAGED}")
    return values
