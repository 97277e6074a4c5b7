"""A run folder opened from Python."""

import pytest
import torch

from fastad.base.errors import UserError
from fastad.cli import main
from fastad.training.run import Run

MODEL = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "4"]


@pytest.fixture(scope="module")
def folder(tiny_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    often = ["--log-every", "2", "--checkpoint-every", "2"]
    assert main(["train", str(tiny_dataset.path), "--out", str(out), *MODEL, *often]) == 0
    return out


def test_a_run_tells_what_it_is_and_how_it_went(folder, tiny_dataset):
    run = Run(str(folder))
    assert run.path == folder
    assert run.config["model"]["width"] == 16
    losses = [record for record in run.metrics if "loss" in record]
    assert [record["step"] for record in losses] == [2, 4]
    assert run.train_seconds == losses[-1]["train_seconds"]
    assert run.updates == 4
    assert [path.name for path in run.checkpoints] == ["step-00000002", "step-00000004"]
    assert run.dataset_info == tiny_dataset.info
    assert "torch" in run.made_by
    assert run.summary()["loss"] == losses[-1]["loss"]


def test_its_model_is_the_newest_checkpoint_s_and_frozen(folder):
    model = Run(folder).model()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.width == 16
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_run_without_a_record_has_taken_no_time(folder, tmp_path):
    for name in ("config.yaml", "made_by.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    run = Run(tmp_path)
    assert (run.metrics, run.updates, run.train_seconds, run.checkpoints) == ([], 0, 0.0, [])
    with pytest.raises(UserError, match="holds no checkpoint"):
        run.model()


def test_what_is_no_run_is_refused_with_the_fix(tmp_path, folder):
    with pytest.raises(UserError, match=r"run=.*absent does not exist; train one with"):
        Run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no config.yaml; name a folder that"):
        Run(tmp_path)
