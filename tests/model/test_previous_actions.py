"""From the previous action to features, and cached rollouts of actions that are no table's rows."""

import numpy as np
import pytest
import torch
from fastad_kernels import native
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.actions import distribution_over
from fastad.model.config import ModelConfig
from fastad.model.previous_actions import action_encoder
from fastad.model.sequence_model import SequenceModel
from fastad.model.terms import add_up

ACTIONS = {
    "choices": spaces.MultiDiscrete([3, 2]),
    "box": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 9], np.float32)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
}
VECTOR = spaces.Box(-1.0, 1.0, (4,))
EPISODE = 5


def make_model(space, **changes):
    torch.manual_seed(0)
    config = ModelConfig(**({"context": 12, "num_layers": 3, "width": 32} | changes))
    model = SequenceModel(config, VECTOR, space, EPISODE, reward_shift=0.3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2.0)
    return model


def make_steps(actions, batch, length):
    generator = torch.Generator().manual_seed(0)
    taken = actions.random(batch * length, generator).view(batch, length, *actions.shape)
    taken[:, 0] = actions.none
    step = (torch.arange(length) % EPISODE).expand(batch, length)
    return Steps(
        torch.rand(batch, length, 4, generator=generator) * 2 - 1, taken,
        torch.rand(batch, length, generator=generator), step == 0, step,
    )  # fmt: skip


@pytest.mark.parametrize("impl", ["sdpa", "native", "reference"])
@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@pytest.mark.parametrize("name", ACTIONS)
@torch.no_grad()
def test_cached_parameters_equal_recomputed_after_three_windows(name, layout, impl):
    model = make_model(ACTIONS[name], layout=layout)
    steps = make_steps(model.actions, 3, 40)
    model.kernels = "reference"
    expected = model(steps).policy
    model.kernels = impl
    memory = model.make_memory(3)
    # Actions that are features have no place in the tables of interleaved tokens.
    assert (memory.frozen is not None) == (impl == "native" and layout == "fused")
    found = torch.stack([memory.predict(steps.part(t, t + 1)) for t in range(40)], dim=1)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.skipif(
    native.why_unavailable() is not None, reason="PyTorch's own products depend on the rows"
)
@pytest.mark.parametrize("name", ACTIONS)
@torch.no_grad()
def test_a_cached_step_is_the_same_alone_and_in_a_batch_to_the_last_bit(name):
    model = make_model(ACTIONS[name])
    model.kernels = "native"
    steps = make_steps(model.actions, 5, 20)
    together, alone = model.make_memory(5), model.make_memory(1)
    for t in range(20):
        row = together.predict(steps.part(t, t + 1))[2:3]
        assert torch.equal(alone.predict(steps.part(t, t + 1, slice(2, 3))), row)


def test_each_choice_has_a_row_of_its_own_and_one_for_none():
    encoder = action_encoder(distribution_over(ACTIONS["choices"]), 2)
    with torch.no_grad():
        encoder.table.weight.copy_(torch.arange(7.0)[:, None].expand(7, 2))
    # Rows 0 to 2 and 3 are of the first choice and of its absence, 4 to 6 of the second's.
    taken = torch.tensor([[[2, 1], [0, 0], [3, 2]]])
    found = add_up([encoder.term(taken, None, "sdpa")], "sdpa")
    assert found[0, :, 0].tolist() == [7.0, 4.0, 9.0]


def test_a_place_in_the_box_is_what_is_encoded_and_none_has_a_row():
    encoder = action_encoder(distribution_over(ACTIONS["box"]), 1)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.tensor([[1.0, 10.0]]))
        encoder.linear.bias.zero_()
        encoder.none.weight.fill_(-7.0)
    taken = torch.tensor([[[0.5, 9.0], [-1.0, 4.5], [torch.nan, torch.nan]]])
    assert encoder.term(taken, None, "sdpa")[0, :, 0].tolist() == [10.5, -1.0, -7.0]
    factor = torch.tensor([[2.0, 3.0, 0.0]])
    assert encoder.term(taken, factor, "sdpa")[0, :, 0].tolist() == [21.0, -3.0, 0.0]


@torch.no_grad()
def test_rewards_before_the_first_action_are_not_seen():
    for space in ACTIONS.values():
        model = make_model(space)
        steps = make_steps(model.actions, 1, 3)
        other = steps._replace(previous_reward=steps.previous_reward.clone())
        other.previous_reward[:, 0] = 99.0
        assert torch.equal(model(steps).policy, model(other).policy)
