"""Does a step of a cached rollout cost the same after 100,000 steps as after the first window?

One rollout; its speed just after the ring is full, and again at its end. Before anything is
reported, the last logits are computed again from all the steps that they depend on.
"""

import time
from dataclasses import dataclass
from functools import cache

import torch

from benchmarks.harness import Measure, relative_difference
from benchmarks.models import dark_room, make_model
from fastad.acting.interact import interact
from fastad.model.memory import RecordedMemory
from fastad.rollouts.agent import InContextAgent

BLOCK = 20  # steps that are timed together


@dataclass(frozen=True)
class Case:
    """A rollout of so many steps in 16 environments."""

    num_steps: int
    context: int
    num_timed: int  # steps at either end

    def __str__(self) -> str:
        return f"16 environments, context {self.context}, {self.num_steps:,} steps"


CASES = [Case(100_000, 400, 2_000)]
QUICK = [Case(400, 40, 40)]
SIDES = ("fastad, ring just full", "fastad, at the end")


@cache
def roll_out(case: Case) -> tuple[float, dict[str, list[float]]]:
    """Relative difference of the last logits, and steps per second of every block by side."""
    model, (env, generator) = make_model(case.context), dark_room(16)
    memory = RecordedMemory(model.make_memory(16), model.receptive_field)
    agent = InContextAgent(memory, model.actions, 16, generator=generator)
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    began = time.perf_counter()
    blocks = interact(env, agent, num_steps=case.num_steps, block_steps=1, generator=generator)
    for step, _ in enumerate(blocks, start=1):
        if step % BLOCK == 0:
            seconds = time.perf_counter() - began
            if 0 < step - case.context - BLOCK <= case.num_timed:
                rates[SIDES[0]].append(16 * BLOCK / seconds)
            if step > case.num_steps - case.num_timed:
                rates[SIDES[1]].append(16 * BLOCK / seconds)
            began = time.perf_counter()
    with torch.inference_mode():
        recomputed = model(memory.whole()).policy
    return relative_difference(memory.logits[-1], recomputed[:, -1]), rates


def test_horizon(measure: Measure, case: Case, side: str) -> None:
    """See the module."""
    difference, rates = roll_out(case)
    measure.gate(difference)
    measure.values(rates[side], unit="steps/s")
