"""A loss or gradient that is no number, at any update: it is named, and checkpoints are good."""

import random
from functools import partial
from typing import Any

import torch

from fastad.methods.ad import AlgorithmDistillation
from tests.faults.disks import refused_or_whole
from tests.faults.subjects import World
from tests.faults.trials import Fault, Outcome

TRIALS = 20
NUM_UPDATES = 6  # of the training that is tried


def faults(world: World) -> list[Fault]:
    """A loss of NaN, and gradients of infinity."""
    return [
        Fault("a loss that is NaN: train", partial(_trial, world, False), TRIALS),
        Fault("a gradient that is infinite: train", partial(_trial, world, True), TRIALS),
    ]


def _trial(world: World, of_gradient: bool, index: int, rng: random.Random) -> Outcome:
    place, update = world.place("trial"), rng.randrange(NUM_UPDATES)
    before = partial(_break, update, of_gradient)
    ended = world.start(lambda: world.train.begin(place), before).wait()
    if f"at update {update}: training stopped" not in ended.errors:
        return Outcome("lost", f"update {update}: {ended}")
    return refused_or_whole(world, world.train, place, ended, f"at update {update}")


def _break(update: int, of_gradient: bool) -> None:
    """Let an update of this process go wrong."""
    whole, calls = AlgorithmDistillation.loss, iter(range(10**6))

    def loss(method: Any, output: Any, batch: Any) -> Any:
        value, figures = whole(method, output, batch)
        if next(calls) != update:
            return value, figures
        if of_gradient:
            value.register_hook(lambda gradient: gradient * torch.inf)
            return value, figures
        return value * torch.nan, figures

    AlgorithmDistillation.loss = loss  # type: ignore[method-assign]
