"""A run as a Hugging Face folder: loaded in another process, it is the same model, and no code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import fastad
from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.cli import main

FRESH = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_hugging_face import logits
torch.save(logits(sys.argv[2]), sys.argv[3])
"""


def logits(path):
    """Those of fixed steps, by kernels that no measurement chooses."""
    model, shape = fastad.Run(path).model(), (3, 12)
    model.kernels = "sdpa"
    random = torch.Generator().manual_seed(0)
    time = torch.arange(12).expand(shape) % 4
    steps = Steps(
        torch.randint(3, (*shape, 2), generator=random), torch.randint(5, shape, generator=random),
        torch.rand(shape, generator=random), time == 0, time,
    )  # fmt: skip
    return model(steps).policy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hugging")
    data = fastad.collect(
        out=folder / "data", num_histories=24, num_episodes=5, num_test_tasks=2,
        env_options={"size": 3, "episode_length": 4},
    )  # fmt: skip
    made = fastad.train(
        data=data, out=folder / "run", updates=3, width=16, num_layers=1, context=12,
    )  # fmt: skip
    assert main(["rollout", str(made.path), "--episodes", "3", "--rollouts-per-task", "2"]) == 0
    return made


@pytest.fixture
def folder(run, tmp_path):
    return fastad.convert(run.path, tmp_path / "model")


@pytest.mark.slow
def test_a_fresh_process_gets_the_same_logits_bit_by_bit(run, folder, tmp_path):
    out = tmp_path / "logits.pt"
    command = [sys.executable, "-c", FRESH, str(Path(__file__).parent), str(folder), str(out)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, env=os.environ | threads)
    assert torch.load(out).equal(logits(run.path))


def test_the_folder_holds_what_hugging_face_wants_and_nothing_pickled(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "model.safetensors", "config.json", "README.md", "dataset/dataset.json",
        "dataset/tasks.npy", ".fastad-model",
    }  # fmt: skip
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "fastad"
    assert config["updates"] == 3
    assert str(folder.parent) not in json.dumps(config)
    assert "out" not in config["training"]


def test_the_card_says_what_it_is_and_what_it_returned(run, folder):
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    (found,) = Path(run.path, "rollouts").glob("*.json")
    returns = fastad.Result.load(found).task_returns.mean(axis=0)
    parsed = yaml.safe_load(header)
    assert parsed["library_name"] == "fastad"
    (results,) = parsed["model-index"][0]["results"]
    assert results["metrics"][0]["value"] == pytest.approx(returns[-1])
    assert "The source knows: the movement rules, not the reward" in text
    assert f"| 3 | {returns[2]:.2f} |" in text
    assert "fastad.Run('model')" in text


def test_it_is_rolled_out_and_inspected_by_its_folder_as_the_run_is(run, folder, tmp_path, capsys):
    asked = {"episodes": 2, "rollouts_per_task": 2}
    one, other = (fastad.rollout(path, **asked) for path in (run.path, folder))
    assert (one.returns == other.returns).all()
    assert (other.updates, other.method) == (3, "ad")
    assert main(["rollout", str(folder), "--episodes", "1"]) == 0
    assert main(["inspect", str(folder)]) == 0
    assert "3 of 3" in capsys.readouterr().out
    # What a rollout left there is fastad's, and goes with the rest.
    fastad.convert(run.path, folder, overwrite=True)
    assert not (folder / "rollouts").exists()


def test_a_checkpoint_becomes_a_folder_as_well_and_one_that_is_there_stays(run, folder, tmp_path):
    fastad.convert(run.checkpoints[-1], tmp_path / "of-checkpoint")
    with pytest.raises(UserError, match="exists; replace it with --overwrite"):
        fastad.convert(run.path, folder)
    (folder / "mine.py").write_text("")
    with pytest.raises(UserError, match=r"holds more than its model \(mine.py\)"):
        fastad.convert(run.path, folder, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"lacks the file \.fastad-model"):
        fastad.convert(run.path, tmp_path / "mine", overwrite=True)
    with pytest.raises(UserError, match="is a model's folder already"):
        fastad.convert(folder, tmp_path / "new")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model_type", "bert", "is none of fastad's models"),
        ("format_version", 2, "upgrade fastad"),
        ("training", None, "training is missing or damaged"),
        ("updates", "3", "updates='3' is no number"),
        ("updates", -1, "updates=-1 is no number"),
        ("train_seconds", -1, "train_seconds=-1 is no time"),
        ("train_seconds", 10**400, r"train_seconds=1000.* is no time"),
        ("weights", {"bytes": 1}, "bytes instead of 1"),
        ("model", {"format_version": 3}, "is not a fastad model"),
    ],
)
def test_a_folder_of_another_library_or_a_damaged_one_is_refused(name, value, message, folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(UserError, match=message):
        fastad.Run(folder).model()


def test_weights_that_are_cut_short_or_changed_are_refused(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    for wrong in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        weights.write_bytes(wrong)
        with pytest.raises(UserError, match=r"model.safetensors is missing or damaged"):
            fastad.Run(folder).model()
    weights.unlink()
    with pytest.raises(UserError, match=r"model.safetensors is missing"):
        fastad.Run(folder).model()


def test_a_run_without_a_checkpoint_or_a_folder_that_is_none_is_refused(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "begun")
    shutil.rmtree(tmp_path / "begun" / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint"):
        fastad.convert(tmp_path / "begun", tmp_path / "new")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        fastad.rollout(tmp_path / "none")
    assert not (tmp_path / "new").exists()
