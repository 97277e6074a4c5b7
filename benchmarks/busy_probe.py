"""How quick training, rollout or collection is in a process of its own; see test_busy.py.

python busy_probe.py train|rollout|collect SECONDS THREADS, prints units per second of each round;
0 threads are fastad's default
"""

import fastad  # isort: skip  before torch, so that it decides how threads wait

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.models import dark_room, make_model, random_steps
from fastad.collect import run_source
from fastad.context import CachedContext
from fastad.device import set_threads
from fastad.envs.registry import env_class
from fastad.interact import interact
from fastad.rollout import InContextAgent

ROUNDS = 5
CONTEXT, NUM_ENVS, LEARNERS, EPISODES = 400, 64, 512, 20
BATCH, LENGTH = 12, 200


def training() -> tuple[Callable[[], object], int]:
    """One update on a batch of the presets' size."""
    model = make_model(CONTEXT).train()
    steps = random_steps(BATCH, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def update() -> None:
        F.cross_entropy(model(steps).flatten(0, 1), steps.previous_action.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return update, BATCH * LENGTH


def rolling_out() -> tuple[Callable[[], object], int]:
    """An episode in every environment, with the cache."""
    model = make_model(CONTEXT)
    env, generator = dark_room(NUM_ENVS)
    context = CachedContext(model, NUM_ENVS)
    agent = InContextAgent(context, model.num_actions, NUM_ENVS, generator=generator)
    blocks = interact(env, agent, num_steps=10**9, block_steps=20, generator=generator)
    return lambda: next(blocks), 20 * NUM_ENVS


def collecting() -> tuple[Callable[[], object], int]:
    """Fresh Q-learners, without the disk."""
    goals = env_class("dark-room").enumerate_tasks()
    assert goals is not None
    tasks = goals[torch.arange(LEARNERS) % len(goals)]

    def collect() -> None:
        run_source(
            "dark-room", tasks, env_kwargs={}, source="q-learning", source_kwargs={},
            num_episodes=EPISODES, seed=0,
        )  # fmt: skip

    return collect, LEARNERS * EPISODES * 20


WORK = {"train": training, "rollout": rolling_out, "collect": collecting}


def main(task: str, seconds: float, threads: int) -> list[float]:
    """Units per second of rounds that together take `seconds`."""
    set_threads(threads or None)
    call, units = WORK[task]()
    call()
    rates = []
    for _ in range(ROUNDS):
        began, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - began < seconds / ROUNDS:
            call()
            done += units
        rates.append(done / (time.perf_counter() - began))
    return rates


if __name__ == "__main__":
    assert fastad.__version__
    print(*main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
