"""A dataset small enough to train on in a blink."""

import shutil

import pytest
import torch

from fastad.cli import main
from fastad.histories.jobs import collect
from fastad.histories.reader import HistoryDataset
from fastad.methods.ad import AlgorithmDistillation
from fastad.methods.windows import WindowSampler
from fastad.model.config import ModelConfig
from tests.training.small_run import COLLECT, SHORT


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny"
    collect(
        path,
        env="dark-room",
        env_kwargs={"size": 3, "episode_length": 4},
        source="frontier",
        num_histories=32,
        num_episodes=5,
        num_test=2,
        action_noise=0.1,
    )
    return HistoryDataset(path)


@pytest.fixture
def tiny_training(tiny_dataset):
    """Build a model and its method, always the same for the same arguments."""

    def build(*, seed=0, batch_size=4, target="policy", **model):
        sampler = WindowSampler(tiny_dataset, num_steps=20, batch_size=batch_size, seed=seed)
        method = AlgorithmDistillation(sampler, target)
        torch.manual_seed(seed)
        config = ModelConfig(**({"context": 20, "width": 16, "num_layers": 1} | model))
        return method.build_model(config), method

    return build


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset, and a run with two checkpoints."""
    folder = tmp_path_factory.mktemp("world")
    assert main(["collect", str(folder / "data"), *COLLECT]) == 0
    assert main(["train", str(folder / "data"), "--out", str(folder / "run"), *SHORT]) == 0
    return folder


@pytest.fixture
def run(world, tmp_path):
    """The run of `world`, to be spoilt."""
    return shutil.copytree(world / "run", tmp_path / "run")
