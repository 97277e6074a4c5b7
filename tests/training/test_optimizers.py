"""Which optimiser gets which parameter, and at what rate."""

from gymnasium import spaces

from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.training.optimizers import make_optimizers, set_learning_rate
from fastad.training.settings import TrainSettings


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
