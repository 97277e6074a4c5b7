"""How many environment steps per second do learners with networks of their own take?

A2C in Dark Room, 9 x 9, 20 steps per episode: independent learners, each with an MLP of two hidden
layers of 64 and four actors, an update per episode. Steps of all actors count, learning included;
nothing is written. fastad: its source `a2c` in the interaction loop, a process per core as `fastad
collect --workers` has them. JAX: the same learner written once, then `jit(vmap(scan))`, as public
JAX code trains many agents at once, on all cores. Of many learners it is quicker in calls of 128,
whose weights stay in the cache: that is a side of its own. Starting and compiling are not timed.

Checked before timing: the same weights, actions and rewards give the same clipped gradient.
"""

from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from benchmarks.harness import Measure, relative_difference
from benchmarks.learners import NEURAL, NeuralLearners, Workers
from benchmarks.peers.jax_a2c import EPISODE_LENGTH, JaxA2C

SIDES = ("fastad", "JAX, jit(vmap(scan))", "JAX, in calls of 128 learners")
AT_ONCE = 128


class Case(NamedTuple):
    """How many learners at once."""

    num_learners: int

    def __str__(self) -> str:
        return f"A2C, {self.num_learners:,} learners of 64-64"


CASES = (Case(128), Case(1024))
QUICK = (Case(4),)


def test_neural(measure: Measure, case: Case, side: str) -> None:
    num_steps = case.num_learners * NEURAL.num_actors * EPISODE_LENGTH
    if side == SIDES[0]:
        with closing(
            Workers(case.num_learners, torch.get_num_threads(), NeuralLearners)
        ) as workers:
            measure.rate(workers, work=num_steps, unit="steps/s")
        return
    at_once = AT_ONCE if side == SIDES[2] else case.num_learners
    if side == SIDES[2] and case.num_learners <= AT_ONCE:
        pytest.skip(f"all {case.num_learners} learners are one call")
    learners = NeuralLearners(case.num_learners)
    weights = learners.weights(learners.source.network.parameters)
    peer = JaxA2C(weights, learners.tasks.numpy(), NEURAL, at_once=at_once)
    measure.gate(_difference(learners, peer))
    measure.rate(peer.learn, work=num_steps, unit="steps/s")


def _difference(learners: NeuralLearners, peer: JaxA2C) -> float:
    """Between both sides' gradients of an episode that fastad's learners acted."""
    seen: list[np.ndarray] = []
    source = learners.source
    step = source.actors.step

    def watch(*arguments: Any) -> Any:
        outcome = step(*arguments)
        seen.append(source.actors.led_to().unflatten(-1, (2, -1)).argmax(-1).numpy())
        return outcome

    source.actors.step = watch  # type: ignore[method-assign]
    learners()
    source.actors.step = step  # type: ignore[method-assign]
    start = np.full_like(seen[0], 4)
    cells = np.stack([start, *seen], axis=1)
    shape = (len(start), EPISODE_LENGTH, NEURAL.num_actors)
    actions, rewards = (buffer.view(shape).numpy() for buffer in (source._action, source._reward))
    theirs = peer.gradients(cells, actions, rewards)
    ours = learners.weights(source.network.gradients)
    pairs = zip(ours, theirs, strict=True)
    return max(
        relative_difference(torch.from_numpy(mine), torch.tensor(other)) for mine, other in pairs
    )
