"""The learning rate, update by update, and which optimiser gets which parameter."""

import pytest
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.training.schedule import learning_rate_factor, make_optimizers, set_learning_rate
from fastad.training.settings import TrainSettings


def factors(**settings):
    settings = TrainSettings(**settings)
    return [learning_rate_factor(update, settings) for update in range(settings.updates)]


def test_linear_decay_climbs_then_falls_to_its_end_at_the_last_update():
    got = factors(updates=8, warmup_updates=3, final_learning_rate=0.2)
    assert got == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_decay_is_half_way_in_the_middle():
    got = factors(updates=5, warmup_updates=0, decay="cosine", final_learning_rate=0.0)
    assert got == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466, 0.0])


def test_constant_stays_after_the_warm_up():
    assert factors(updates=4, warmup_updates=2, decay="constant") == [0.5, 1.0, 1.0, 1.0]


def make_model():
    return SequenceModel(ModelConfig(), spaces.MultiDiscrete([9, 9]), spaces.Discrete(5), 20)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_everything_else_once():
    model = make_model()
    muon, adamw = make_optimizers(model, TrainSettings())
    named = {id(p): name for name, p in model.named_parameters()}
    matrices = [named[id(p)] for g in muon.param_groups for p in g["params"]]
    rest = [named[id(p)] for g in adamw.param_groups for p in g["params"]]
    assert len(matrices) == 12  # two blocks of query, key, value, out, mlp in, mlp out
    assert all(name.startswith("trunk.blocks.") and name.endswith(".weight") for name in matrices)
    assert sorted(matrices + rest) == sorted(named.values())
    assert {"heads.policy.weight", "encoder.action.weight"} <= set(rest)


def test_adamw_alone_decays_matrices_only():
    (adamw,) = make_optimizers(make_model(), TrainSettings(optimizer="adamw", weight_decay=0.1))
    decay = {p.ndim: g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    assert [g["weight_decay"] for g in adamw.param_groups] == [0.0, 0.1]
    assert decay[1] == 0.0


def test_every_group_follows_its_own_peak():
    optimizers = make_optimizers(make_model(), TrainSettings())
    set_learning_rate(optimizers, 0.5)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [0.01, 0.0015]


@pytest.mark.parametrize(
    "settings",
    [
        {"updates": 0},
        {"batch_size": 0},
        {"clip": -1.0},
        {"learning_rate": 0.0},
        {"window": 0},
        {"final_learning_rate": 2.0},
    ],
)
def test_impossible_settings_name_the_field(settings):
    (field,) = settings
    with pytest.raises(UserError, match=f"{field}={settings[field]} must be"):
        TrainSettings(**settings)
