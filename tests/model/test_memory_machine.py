"""Memories as a state machine: steps, waiting, forgetting in any order give what whole contexts do.

The specification keeps every step of each environment since it last forgot, and knows no memory:
the logits are the last ones of the model run over that context alone.
"""

import pytest
import torch
from gymnasium import spaces
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fastad.acting.steps import Steps
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel

CELLS, ACTIONS, EPISODE = 9, 5, 4
CLOSE = 2e-5  # of logits near 1: sums in another order
GRU = {"trunk": "gru", "layout": "fused"}
TRANSFORMERS = [
    {"layout": layout, "positions": positions, "num_heads": 2, "num_kv_heads": heads}
    for layout in ("fused", "interleaved")
    for positions in ("none", "rope", "alibi")
    for heads in (1, 2)
]


class Memories(RuleBasedStateMachine):
    """A cached and a recomputed memory of the same few environments."""

    @initialize(
        kind=st.one_of(st.just(GRU), st.sampled_from(TRANSFORMERS)),
        kernels=st.sampled_from(["auto", "reference"]),
        num_envs=st.integers(1, 4),
        context=st.integers(1, 4),
    )
    def begin(self, kind, kernels, num_envs, context):
        torch.manual_seed(0)
        per_step = 3 if kind["layout"] == "interleaved" else 1
        window = {} if "trunk" in kind else {"context": context * per_step}
        config = ModelConfig(width=16, num_layers=2, **window, **kind)
        self.model = SequenceModel(
            config, spaces.Discrete(CELLS), spaces.Discrete(ACTIONS), EPISODE
        ).eval()
        self.model.kernels = kernels
        self.memories = [self.model.make_memory(num_envs, kv_cache=kept) for kept in (True, False)]
        self.seen = [[] for _ in range(num_envs)]

    @rule(seed=st.integers(0, 2**31), idle=st.lists(st.booleans(), min_size=4, max_size=4))
    def predict(self, seed, idle):
        """A step of those that do not wait; what waits is shown anything."""
        steps = self._step(seed)
        waiting = torch.tensor(idle[: len(self.seen)])
        self._add(steps, ~waiting)
        with torch.no_grad():
            found = [m.predict(steps, waiting if waiting.any() else None) for m in self.memories]
            for env in (~waiting).nonzero().flatten().tolist():
                alone = self.model(Steps.join(self.seen[env])).policy[0, -1]
                for logits in found:
                    torch.testing.assert_close(logits[env], alone, rtol=CLOSE, atol=CLOSE)

    @rule(seed=st.integers(0, 2**31))
    def take(self, seed):
        """A step that nobody asks about, as those of a prompt."""
        steps = self._step(seed)
        self._add(steps, torch.ones(len(self.seen), dtype=torch.bool))
        with torch.no_grad():
            for memory in self.memories:
                memory.take(steps)

    @rule(chosen=st.lists(st.booleans(), min_size=4, max_size=4))
    def forget(self, chosen):
        """Other tasks for some."""
        mask = torch.tensor(chosen[: len(self.seen)])
        for memory in self.memories:
            memory.forget(mask)
        for env in mask.nonzero().flatten().tolist():
            self.seen[env] = []

    def _step(self, seed):
        generator = torch.Generator().manual_seed(seed)

        def draw(high):
            return torch.randint(high, (len(self.seen), 1), generator=generator)

        when = draw(EPISODE)
        return Steps(draw(CELLS), draw(ACTIONS + 1), draw(3).float(), when == 0, when)

    def _add(self, steps, rows):
        for env in rows.nonzero().flatten().tolist():
            self.seen[env].append(steps.part(0, 1, slice(env, env + 1)))


TestMemories = Memories.TestCase
TestMemories.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
class TestMemoriesThoroughly(Memories.TestCase):
    settings = settings(settings.get_profile("thorough"), max_examples=300, stateful_step_count=40)
