"""The optimisers of a run, by name, and their state by the names of parameters."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from fastad.base.errors import UserError
from fastad.model.sequence_model import SequenceModel
from fastad.training.muon import Muon
from fastad.training.settings import TrainSettings
from fastad.training.shards import part_as, whole

Optimizers = list[torch.optim.Optimizer]


def make_optimizers(model: SequenceModel, settings: TrainSettings) -> Optimizers:
    """Build the optimisers that `settings` name; groups keep their peak rate as "peak"."""
    chosen = set(model.matrix_names())
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if name in chosen]
    rest = [parameter for name, parameter in named if name not in chosen]
    optimizers = OPTIMIZERS[settings.optimizer](matrices, rest, settings)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _adamw(matrices: list[Parameter], rest: list[Parameter], settings: TrainSettings) -> Optimizers:
    """AdamW alone, which decays matrices only."""
    return [_make_adamw([(rest, 0.0), (matrices, settings.weight_decay)], settings)]


def _muon(matrices: list[Parameter], rest: list[Parameter], settings: TrainSettings) -> Optimizers:
    """Muon on the matrices that the model names, AdamW on the rest, as Muon's authors advise."""
    muon = Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
    return [muon, _make_adamw([(rest, 0.0)], settings)]


OPTIMIZERS: dict[str, Callable[[list[Parameter], list[Parameter], TrainSettings], Optimizers]] = {
    "adamw": _adamw,
    "muon": _muon,
}

# What each keeps of a parameter; of its shape, but for the number of steps.
STATES: dict[type[torch.optim.Optimizer], frozenset[str]] = {
    Muon: frozenset({"momentum_buffer"}),
    torch.optim.AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
}


def _make_adamw(
    groups: list[tuple[list[Parameter], float]], settings: TrainSettings
) -> torch.optim.AdamW:
    """Of parameters and their weight decay, group by group."""
    return torch.optim.AdamW(
        [{"params": parameters, "weight_decay": decay} for parameters, decay in groups],
        lr=settings.learning_rate, betas=settings.adam_betas, fused=True,
    )  # fmt: skip


def set_learning_rate(optimizers: Optimizers, factor: float) -> None:
    """Set every group to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def named_state(model: SequenceModel, optimizers: Optimizers) -> dict[str, dict[str, Tensor]]:
    """The state of each parameter by its name, whichever optimiser holds the parameter.

    Whole tensors: where ranks hold parts of them, every rank has to ask.
    """
    names = _names(model)
    return {
        names[parameter]: {field: whole(tensor) for field, tensor in fields.items()}
        for optimizer in optimizers
        for parameter, fields in optimizer.state.items()
    }


def restore_state(
    model: SequenceModel,
    optimizers: Optimizers,
    kept: dict[str, dict[str, Tensor]],
    file: Path,
) -> None:
    """Give every optimiser the states of its parameters, as `named_state` gave them.

    Args:
        model: Whose parameters the optimisers hold.
        optimizers: Mutated.
        kept: States by the name of their parameter.
        file: Where they are from, for errors.

    Raises:
        UserError: If there are states of other parameters, or of other shapes.
    """
    names, left = _names(model), dict(kept)
    for optimizer in optimizers:
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        state = {}
        for index, parameter in enumerate(owned):
            fields = left.pop(names[parameter], {})
            if fields and fields.keys() != STATES[type(optimizer)]:
                raise UserError(
                    f"{file}: {names[parameter]} has the state of another optimiser: "
                    f"{', '.join(sorted(fields))}"
                )
            for field, tensor in fields.items():
                if tensor.shape != (() if field == "step" else parameter.shape):
                    raise UserError(f"{file}: {names[parameter]} has a state of another shape")
            if fields:
                state[index] = {
                    field: part_as(tensor, parameter) if tensor.shape else tensor
                    for field, tensor in fields.items()
                }
        # Groups hold settings only, which the run's own config has already set.
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    if left:
        raise UserError(f"{file} holds the state of {min(left)}, which this model does not have")


def _names(model: SequenceModel) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}
