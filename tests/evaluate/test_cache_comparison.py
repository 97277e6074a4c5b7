"""Cached beside recomputed rollouts: the same actions, the same logits."""

import pytest
import torch
from fastad_kernels import sample

from fastad.evaluate.cache_comparison import compare_cache, same_actions
from fastad.model.memory import CachedMemory


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_with_and_without_the_cache_the_actions_are_the_same(rooms, model_on, positions):
    figures = compare_cache(model_on(rooms, positions=positions), rooms)
    assert figures["same_actions"] is True
    assert figures["max_logit_difference"] < 1e-5
    # 24 steps of histories are 4 episodes; a table of 8 learned positions is one.
    episodes = {"none": 4, "learned": 1}[positions]
    assert figures["cache_comparison"] == {"environments": 64, "episodes": episodes}


def test_a_memory_that_predicts_otherwise_is_noticed(rooms, model_on, monkeypatch):
    original = CachedMemory.sample
    monkeypatch.setattr(
        CachedMemory, "sample",
        lambda self, steps, uniform: sample(-9 * original(self, steps, uniform).logits, uniform),
    )  # fmt: skip
    figures = compare_cache(model_on(rooms), rooms)
    assert figures["same_actions"] is False
    assert figures["max_logit_difference"] == pytest.approx(10.0, abs=0.1)


def test_choices_have_to_be_equal_and_numbers_near():
    choices = torch.tensor([[0, 1, 2]])
    assert same_actions(choices, choices.clone())
    assert not same_actions(choices, torch.tensor([[0, 1, 1]]))
    moves = torch.tensor([[[0.5, -2.0]]])
    # The largest is 2, and a thousandth of it 0.002.
    assert same_actions(moves, moves + 0.001)
    assert not same_actions(moves, moves + 0.003)
