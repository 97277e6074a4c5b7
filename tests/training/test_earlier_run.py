"""A run and its histories as an earlier version wrote them: inspected, rolled out, gone on with.

`earlier_run/` is of commit fc656ac, whose parameters had other names: four updates on histories of
schema 1, of which the checkpoint after two is kept, and the weights after four.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastad.api import rollout, train
from fastad.base.config import load_config
from fastad.cli import main
from fastad.configs import TrainConfig
from fastad.training.checkpoint import load_model

EARLIER = Path(__file__).with_name("earlier_run")
# By prefix, as it was and as it is.
RENAMED = (
    ("embedding.", "encoder."),
    ("blocks.0.", "trunk.blocks.0."),
    ("final_norm.", "heads.norm."),
    ("head.", "heads.policy."),
)


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)  # its config names its data by a path from here
    return tmp_path


def now_called(name):
    ((before, after),) = (pair for pair in RENAMED if name.startswith(pair[0]))
    return after + name.removeprefix(before)


def assert_weights(model, file, **tolerance):
    weights, expected = model.state_dict(), load_file(file)
    assert sorted(weights) == sorted(map(now_called, expected))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[now_called(name)], tensor, **tolerance)


def test_it_is_inspected_and_whole(earlier):
    assert main(["inspect", "run", "--verify"]) == 0
    assert main(["inspect", "histories", "--verify"]) == 0


def test_its_weights_are_found_by_their_earlier_names(earlier):
    file = earlier / "run/checkpoints/step-00000002/model.safetensors"
    assert_weights(load_model(Path("run")), file, rtol=0, atol=0)


def test_it_goes_on_to_the_weights_that_it_would_have_had(earlier):
    config = load_config(earlier / "run/config.yaml", "train", TrainConfig)
    train(replace(config, resume=True))
    # Another processor rounds otherwise.
    model = load_model(Path("run"))
    assert_weights(model, earlier / "weights-after-4.safetensors", rtol=1e-4, atol=1e-5)


def test_it_is_rolled_out(earlier):
    result = rollout("run", episodes=2, rollouts_per_task=1, threads=1)
    assert result.returns.shape == (2, 2)
