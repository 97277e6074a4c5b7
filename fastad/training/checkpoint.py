"""Checkpoints: safetensors and JSON, each held to its digest; loading executes no code."""

import json
import reprlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fastad.base.errors import UserError
from fastad.model.sequence_model import SequenceModel
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
from fastad.training.description import build_for, check_version, describe
from fastad.training.model_files import WEIGHTS, is_model_folder, read_model
from fastad.training.optimizers import named_state, restore_state
from fastad.training.parallel import Trained
from fastad.training.ranks import ALONE, Ranks

# How parameters were called before the model had slots: by prefix, then and now. No name of now
# begins as one of then did.
EARLIER_NAMES = {
    "embedding.": "encoder.",
    "blocks.": "trunk.blocks.",
    "final_norm.": "heads.norm.",
    "head.": "heads.policy.",
}


class TrainingState(NamedTuple):
    """What a training goes on from.

    Attributes:
        folder: The checkpoint that it is from.
        weights: Whole tensors by name.
        optimizers: The optimisers' states, whole tensors too, by parameter and field.
        step: Updates done.
        train_seconds: Spent on them.
    """

    folder: Path
    weights: dict[str, Tensor]
    optimizers: dict[str, dict[str, Tensor]]
    step: int
    train_seconds: float


def save_checkpoint(
    run: Path,
    step: int,
    model: SequenceModel,
    optimizers: list[torch.optim.Optimizer],
    *,
    train_seconds: float,
    keep: int = KEEP,
    trained: Trained | None = None,
    ranks: Ranks = ALONE,
) -> Path | None:
    """Write checkpoints/step-XXXXXXXX under `run`; it appears whole or not at all.

    Args:
        run: The run folder, which nobody else writes to.
        step: Updates done.
        model: Its config and spaces are stored, and its weights.
        optimizers: Their state is stored, for an exact resume.
        train_seconds: Spent on the updates so far.
        keep: Newest checkpoints that stay.
        trained: Has the weights, and the parameters of the optimisers, if not the model itself.
        ranks: All of them call this; what they hold between them is stored whole, by the first.

    Returns:
        The checkpoint; None on the other ranks.
    """
    trained = trained or Trained(model, model)
    weights = trained.weights(everywhere=False)
    tensors = _optimizer_tensors(trained.model, optimizers)

    def write() -> Path:
        files = {
            MODEL: save({name: tensor.contiguous() for name, tensor in weights.items()}),
            OPTIMIZER: save(tensors),
            DESCRIPTION: json.dumps(describe(model), indent=2).encode(),
            STATE: json.dumps({"step": step, "train_seconds": train_seconds}).encode(),
        }
        return write_checkpoint(run, step, files, keep=keep)

    return ranks.on_first(write)


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
    if is_model_folder(folder):
        description, content, updates = read_model(folder)
        tensors = _parse_weights(content, folder / WEIGHTS)
        model = build_for(tensors, description, folder)
        _load_weights(model, tensors, folder)
        return model, updates
    with _way_on_named(folder):
        files, update = read_checkpoint(folder, DESCRIPTION, MODEL)
        tensors = _parse_weights(files[MODEL], folder / MODEL)
        description = _parse_json(files[DESCRIPTION], folder / DESCRIPTION)
        model = build_for(tensors, description, folder)
        _load_weights(model, tensors, folder)
    return model, update


def read_training_state(folder: Path) -> TrainingState:
    """What a training goes on from, of whatever layout over ranks the checkpoint was written.

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
        check_version(_parse_json(files[DESCRIPTION], folder / DESCRIPTION), folder / DESCRIPTION)
        weights = _parse_weights(files[MODEL], folder / MODEL)
        tensors = _parse_tensors(files[OPTIMIZER], folder / OPTIMIZER)
        seconds = _parse_json(files[STATE], folder / STATE).get("train_seconds")
        if not isinstance(seconds, int | float) or not 0 <= seconds <= sys.float_info.max:
            shown = reprlib.repr(seconds)
            raise UserError(f"{folder / STATE}: train_seconds={shown} is no time; {DAMAGED}")
    return TrainingState(folder, weights, _by_parameter(tensors), step, float(seconds))


def restore_weights(model: SequenceModel, kept: TrainingState) -> None:
    """Restore weights in place.

    Raises:
        UserError: If they are another model's.
    """
    with _way_on_named(kept.folder):
        _load_weights(model, kept.weights, kept.folder)


def restore_optimizers(
    model: SequenceModel, optimizers: list[torch.optim.Optimizer], kept: TrainingState
) -> None:
    """Restore the states of the optimisers of a model's parameters in place.

    Raises:
        UserError: If they are another model's.
    """
    with _way_on_named(kept.folder):
        restore_state(model, optimizers, kept.optimizers, kept.folder / OPTIMIZER)


@contextmanager
def _way_on_named(folder: Path) -> Iterator[None]:
    """Let an error about a checkpoint end with what can be done instead."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {way_on(folder)}") from error


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
