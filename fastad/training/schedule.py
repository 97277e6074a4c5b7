"""The learning rate over a fixed number of updates, and the optimisers that follow it."""

import math

import torch

from fastad.model.sequence_model import SequenceModel
from fastad.training.muon import Muon
from fastad.training.settings import TrainSettings


def learning_rate_factor(update: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at `update`, counted from 0.

    Climbs linearly over the warm-up, then falls to `final_learning_rate` at the last update.
    """
    if update < settings.warmup_updates:
        return (update + 1) / settings.warmup_updates
    if settings.decay == "constant":
        return 1.0
    span = max(settings.updates - 1 - settings.warmup_updates, 1)
    done = min((update - settings.warmup_updates) / span, 1.0)
    left = 1.0 - done if settings.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.final_learning_rate + (1.0 - settings.final_learning_rate) * left


def make_optimizers(model: SequenceModel, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Build the optimisers; groups keep their peak rate as "peak".

    Muon takes the matrices that the model names; the rest go to AdamW, as its authors advise.
    """
    chosen = set(model.matrix_names())
    named = list(model.named_parameters())
    matrices = [p for name, p in named if name in chosen]
    rest = [p for name, p in named if name not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    groups = [{"params": rest, "weight_decay": 0.0}]
    if settings.optimizer == "muon":
        muon = Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
        optimizers.append(muon)
    else:
        groups.append({"params": matrices, "weight_decay": settings.weight_decay})
    adamw = torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=settings.adam_betas, fused=True
    )
    optimizers.append(adamw)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
