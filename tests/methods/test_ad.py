"""Algorithm Distillation: what it reads, and what it minimises."""

import math

import pytest
import torch

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.histories.reader import HistoryDataset
from fastad.methods.ad import AlgorithmDistillation
from fastad.methods.base import Batch
from fastad.methods.windows import SHOWN, WindowSampler
from fastad.model.config import ModelConfig
from fastad.model.heads import Output

NO_STEPS = Steps(*[torch.empty(0)] * 5)
OUTPUT = Output(torch.log(torch.tensor([[[0.5, 0.5], [0.9, 0.1]]])))


@pytest.fixture
def method_on(tmp_path, make_dataset):
    def make(target, **changes):
        make_dataset(tmp_path, **changes)
        windows = WindowSampler(HistoryDataset(tmp_path), num_steps=6, batch_size=8, seed=0)
        return AlgorithmDistillation(windows, target)

    return make


def test_the_policy_loss_is_the_divergence_from_the_sources_distribution(method_on):
    policy = torch.tensor([[[1.0, 0.0], [0.9, 0.1]]])
    loss, figures = method_on("policy").loss(OUTPUT, Batch(NO_STEPS, {"policy": policy}))
    assert loss.item() == pytest.approx(math.log(2) / 2)
    assert figures == {}


def test_the_sampled_loss_is_the_likelihood_of_the_action_taken_at_every_step(method_on):
    batch = Batch(NO_STEPS, {"action": torch.tensor([[0, 1]])})
    loss, _ = method_on("sampled").loss(OUTPUT, batch)
    assert loss.item() == pytest.approx((math.log(2) + math.log(10)) / 2)


def test_it_reads_what_its_target_needs_and_no_more(method_on):
    assert method_on("policy").needs == SHOWN | {"policy"}
    assert set(method_on("policy").batch(0).targets) == {"action", "policy"}
    assert method_on("sampled").needs == SHOWN
    assert set(method_on("sampled").batch(0).targets) == {"action"}


@pytest.mark.parametrize(
    ("target", "column"), [("final", "final_policy"), ("expert", "expert_policy")]
)
def test_other_distributions_are_learned_as_the_sources_is(method_on, target, column, monkeypatch):
    with pytest.raises(UserError, match=rf"target={target} needs the column {column}.*--labels"):
        method_on(target)
    monkeypatch.setattr("fastad.methods.ad.COLUMNS", {target: ("policy", "")})
    method = method_on(target)
    label = torch.tensor([[[1.0, 0.0], [0.9, 0.1]]])
    loss, _ = method.loss(OUTPUT, Batch(NO_STEPS, {"policy": label}))
    assert loss.item() == pytest.approx(math.log(2) / 2)


def test_a_model_is_built_for_the_histories(method_on):
    method = method_on("policy")
    info = method.windows.dataset.info
    model = method.build_model(ModelConfig(context=6))
    assert model.observation_space == info.observation_space
    assert model.action_space == info.action_space
    assert model.reward_shift == method.windows.reward_mean


def test_histories_without_the_policy_are_refused_before_there_is_a_run(
    tmp_path, make_dataset, capsys
):
    data, run = tmp_path / "data", tmp_path / "run"
    make_dataset(data, policies=[])
    windows = WindowSampler(HistoryDataset(data), num_steps=6, batch_size=1, seed=0)
    with pytest.raises(UserError, match=r"target=policy needs the column policy, which .* lacks"):
        AlgorithmDistillation(windows)
    assert main(["train", str(data), "--out", str(run)]) == 2
    assert "use --target sampled" in capsys.readouterr().err
    assert not run.exists()
