"""How many environment steps per second do learners with tables of their own take?

Q-learning with its defaults in Dark Room, 9 x 9, 20 steps per episode: an update per step, and the
episode replayed three times when it ends. Learning is included; nothing is written. fastad: its
source `q-learning` in the interaction loop, a process per core as `fastad collect --workers` has
them, or a single process of one thread. JAX: the same learner written once, then
`jit(vmap(scan))`, as public JAX code trains many agents at once, on all cores; its tables are
changed where they lie. Starting and compiling are not timed.

Checked before timing: the same actions give the same cells, rewards, policies and tables.
"""

from contextlib import closing
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.harness import Measure, relative_difference
from benchmarks.learners import TABULAR, TabularLearners, Workers
from benchmarks.peers.jax_q_learning import EPISODE_LENGTH, SIZE, JaxQLearning

SIDES = ("fastad, a process per core", "fastad, one process", "JAX, jit(vmap(scan))")
CHECKED_EPISODES = 5
EPISODES = 50  # of each call, as of a history: workers of `collect` wait for nobody


class Case(NamedTuple):
    """How many learners at once."""

    num_learners: int

    def __str__(self) -> str:
        return f"Q-learning, {self.num_learners:,} learners"


CASES = (Case(128), Case(1024), Case(2048), Case(4096))
QUICK = (Case(4),)


def test_tabular(measure: Measure, case: Case, side: str) -> None:
    num_steps = case.num_learners * EPISODE_LENGTH * EPISODES
    if side in SIDES[:2]:
        num_workers = torch.get_num_threads() if side == SIDES[0] else 1
        with closing(Workers(case.num_learners, num_workers, TabularLearners)) as workers:
            measure.rate(partial(workers, EPISODES), work=num_steps, unit="steps/s")
        return
    learners = TabularLearners(case.num_learners)
    peer = JaxQLearning(learners.tasks.numpy(), TABULAR)
    measure.gate(max(_difference(learners, peer) for _ in range(CHECKED_EPISODES)))
    measure.rate(partial(_learn, peer), work=num_steps, unit="steps/s")


def _learn(peer: JaxQLearning) -> None:
    for _ in range(EPISODES):
        peer.learn()


def _difference(learners: TabularLearners, peer: JaxQLearning) -> float:
    """Between both sides' next episode, in which they act alike, and what they know then."""
    ours = learners()
    cells, _, rewards, policies = (
        torch.tensor(field) for field in peer.follow(ours.action.numpy())
    )
    seen = ours.observation[..., 0] * SIZE + ours.observation[..., 1]
    assert torch.equal(seen, cells.long())
    assert torch.equal(ours.reward, rewards)
    tables = torch.tensor(peer.tables).flatten(0, 1)
    return max(
        relative_difference(learners.source.q, tables), relative_difference(ours.policy, policies)
    )
