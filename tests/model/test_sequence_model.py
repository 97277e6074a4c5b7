"""Encoders, settings and what dropout and masking do."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.model.config import ModelConfig
from fastad.model.observations import CoordinateEncoder, observation_encoder
from fastad.model.sequence_model import SequenceModel

SPACES = {
    "discrete": (spaces.Discrete(4), torch.tensor([[0, 3, 1]])),
    "grid": (spaces.MultiDiscrete([3, 5]), torch.tensor([[[0, 4], [2, 0], [1, 1]]])),
    "vector": (spaces.Box(-1, 1, (6,), np.float32), torch.zeros(1, 3, 6)),
}


def steps_with(observation):
    batch, length = observation.shape[:2]
    zeros = torch.zeros(batch, length, dtype=torch.int64)
    return Steps(observation, zeros, zeros.float(), zeros == 0, zeros)


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@pytest.mark.parametrize("name", SPACES)
def test_every_supported_space_gives_one_distribution_per_step(name, layout):
    space, observation = SPACES[name]
    model = SequenceModel(ModelConfig(layout=layout), space, spaces.Discrete(7), 10)
    assert model(steps_with(observation)).policy.shape == (1, 3, 7)


def test_each_coordinate_has_a_table_of_its_own():
    encoder = CoordinateEncoder(np.asarray([3, 5]), 2)
    with torch.no_grad():
        encoder.table.weight.copy_(torch.arange(8.0)[:, None].expand(8, 2))
    # x=2 is row 2; y=4 is row 3 + 4.
    assert encoder(torch.tensor([[[2, 4]]]))[0, 0].tolist() == [9.0, 9.0]


def test_a_space_without_an_encoder_is_named():
    with pytest.raises(UserError, match="has no encoder; use Discrete, MultiDiscrete, a Box"):
        observation_encoder(spaces.Text(9), 8)


def test_a_reward_before_the_first_action_is_not_seen():
    space, observation = SPACES["grid"]
    model = SequenceModel(ModelConfig(), space, spaces.Discrete(5), 10, reward_shift=0.4).eval()
    steps = steps_with(observation)
    first = steps._replace(previous_action=torch.full((1, 3), 5))
    other = first._replace(previous_reward=torch.ones(1, 3))
    assert torch.equal(model(first).policy, model(other).policy)
    assert not torch.equal(
        model(steps).policy, model(steps._replace(previous_reward=torch.ones(1, 3))).policy
    )


@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "token_mask"])
def test_noise_acts_in_training_only(option):
    space, observation = SPACES["grid"]
    model = SequenceModel(ModelConfig(**{option: 0.5}), space, spaces.Discrete(5), 10)
    steps = steps_with(observation)
    torch.manual_seed(0)  # of three tokens the same ones may be hidden twice
    assert not torch.equal(model(steps).policy, model(steps).policy)
    model.eval()
    assert torch.equal(model(steps).policy, model(steps).policy)


def test_post_norm_normalises_what_leaves_a_block():
    space, observation = SPACES["grid"]
    model = SequenceModel(ModelConfig(norm="post"), space, spaces.Discrete(5), 10).eval()
    seen = []
    model.trunk.blocks[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    model(steps_with(observation))
    assert seen[0].mean(-1).abs().max() < 1e-5
    assert (seen[0].std(-1, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10, "num_heads": 4}, "width=10 must be a multiple of num_heads=4; try width=12"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ({"context": 2, "layout": "interleaved"}, "context=2 must hold at least one step"),
        ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"width": 12, "num_heads": 4, "positions": "rope"}, "even head dim"),
    ],
)
def test_impossible_settings_name_field_value_and_fix(settings, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**settings)
