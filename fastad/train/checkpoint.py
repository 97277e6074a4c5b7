"""Checkpoints: safetensors and JSON, written atomically; loading executes no code."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fastad.base.files import sync_folder
from fastad.errors import UserError
from fastad.model.config import ModelConfig
from fastad.model.transformer import Transformer
from fastad.spaces import space_from_json, space_to_json
from fastad.tracking import CHECKPOINTS

FORMAT_VERSION = 1
MODEL, DESCRIPTION = "model.safetensors", "model.json"
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


def save_checkpoint(
    run: Path,
    step: int,
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    *,
    train_seconds: float,
    keep: int = 2,
) -> Path:
    """Write checkpoints/step-XXXXXXXX under `run`; it appears whole or not at all.

    Args:
        run: The run folder.
        step: Updates done.
        model: Its weights, config and spaces are stored.
        optimizers: Their state is stored, for an exact resume.
        train_seconds: Spent on the updates so far.
        keep: Newest checkpoints that stay.
    """
    final = _folder(run) / f"step-{step:08d}"
    part = final.with_name(final.name + ".part")
    for torn in _folder(run).glob("*.part"):
        shutil.rmtree(torn)
    part.mkdir(parents=True)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, part / MODEL)
    save_file(_optimizer_tensors(optimizers), part / OPTIMIZER)
    (part / DESCRIPTION).write_text(json.dumps(_describe(model), indent=2))
    (part / STATE).write_text(json.dumps({"step": step, "train_seconds": train_seconds}))
    for file in part.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    sync_folder(final.parent)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(p for p in _folder(run).glob("step-*") if not p.name.endswith(".part"))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint at `path`, or the newest of the run folder there.

    Raises:
        UserError: If there is none.
    """
    if (path / DESCRIPTION).is_file():
        return path
    if not path.exists():
        raise UserError(f"run={path} does not exist; train one with `fastad train --out {path}`")
    found = list_checkpoints(path) if path.is_dir() else []
    if not found:
        raise UserError(
            f"run={path} holds no checkpoint; give a folder that `fastad train` wrote"
            + (", or continue it with --resume" if (path / "config.yaml").exists() else "")
        )
    return found[-1]


def load_model(path: Path) -> Transformer:
    """Rebuild the model of a checkpoint or of a run's newest checkpoint, in evaluation mode.

    Raises:
        UserError: If it is not a fastad checkpoint, or damaged.
    """
    folder = find_checkpoint(path)
    description = _read_json(folder / DESCRIPTION)
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder / DESCRIPTION}: format_version={version}, but this fastad reads "
            f"{FORMAT_VERSION}; upgrade fastad or train again"
        )
    try:
        model = Transformer(
            ModelConfig(**description["config"]),
            space_from_json(description["observation_space"]),
            cast(spaces.Discrete, space_from_json(description["action_space"])),
            description["episode_length"],
            reward_shift=description["reward_shift"],
            reward_scale=description["reward_scale"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / DESCRIPTION} is not a fastad model: {error!r}") from error
    _load_weights(model, folder)
    return model.eval()


def load_training_state(
    folder: Path, model: Transformer, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Restore weights and optimiser states in place; returns (updates done, train seconds)."""
    _load_weights(model, folder)
    tensors = _read_tensors(folder / OPTIMIZER)
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            owner, parameter, field = name.split(".", 2)
            if int(owner) == index:
                state.setdefault(int(parameter), {})[field] = tensor
        # Groups hold settings only, which the run's own config has already set.
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    progress = _read_json(folder / STATE)
    return int(progress["step"]), float(progress["train_seconds"])


def _folder(run: Path) -> Path:
    return run / CHECKPOINTS


def _describe(model: Transformer) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "config": asdict(model.config),
        "observation_space": space_to_json(model.observation_space),
        "action_space": space_to_json(model.action_space),
        "episode_length": model.episode_length,
        "reward_shift": model.reward_shift,
        "reward_scale": model.reward_scale,
    }


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{parameter}.{field}": tensor.contiguous()
        for index, optimizer in enumerate(optimizers)
        for parameter, fields in optimizer.state_dict()["state"].items()
        for field, tensor in fields.items()
    }


def _load_weights(model: Transformer, folder: Path) -> None:
    try:
        model.load_state_dict(_read_tensors(folder / MODEL))
    except RuntimeError as error:
        raise UserError(f"{folder / MODEL} does not fit its {DESCRIPTION}: {error}") from error


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file} is missing or damaged ({error}); use another checkpoint"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is missing or damaged ({error}); use another checkpoint"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object; use another checkpoint")
    return content
