"""`fastad train` and `fastad rollout` through the Triton kernels, in the interpreter."""

import json
from typing import get_args

import pytest
import torch
from fastad_kernels import IMPLEMENTATIONS

from fastad.base.config import Kernels
from fastad.cli import main

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "8", "--num-episodes", "5", "--num-test-tasks", "2"]
MODEL = ["--width", "32", "--num-heads", "2", "--num-layers", "2", "--context", "6"]
TRAIN = [*MODEL, "--positions", "rope", "--batch-size", "2", "--updates", "5", "--log-every", "1"]
# Muon orthogonalises in bfloat16: it makes 1e-5 of a rounding difference in five updates.
TRAIN += ["--optimizer", "adamw", "--eval-every", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "room"
    assert main(["collect", str(path), *COLLECT]) == 0
    return path


@pytest.fixture(scope="module")
def runs(data):
    """The same five updates through the kernels and through the reference."""
    pytest.importorskip("triton")
    folders = {name: data.parent / name for name in ("triton", "reference")}
    for name, folder in folders.items():
        assert main(["train", str(data), "--out", str(folder), *TRAIN, "--kernels", name]) == 0
    return folders


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()]


def test_five_updates_have_the_losses_of_the_reference(runs):
    ours, expected = losses(runs["triton"]), losses(runs["reference"])
    assert len(ours) == 5
    assert len(set(expected)) == 5
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("implementation", ["triton", "reference"])
def test_a_rollout_past_two_wraps_acts_as_recomputing_does(runs, tmp_path, implementation):
    """Four episodes of four steps are more than twice the context of six."""
    run, histories = runs["triton"], {}
    for cached, name in (("--kv-cache", implementation), ("--no-kv-cache", "sdpa")):
        out = tmp_path / name
        options = ["--episodes", "4", "--rollouts-per-task", "1", "--save-histories", str(out)]
        assert main(["rollout", str(run), cached, "--kernels", name, *options]) == 0
        (shard,) = out.glob("shard-*")
        histories[name] = (shard / "action.npy").read_bytes()
    assert len(set(histories.values())) == 1


def test_the_command_line_offers_what_the_kernels_implement():
    assert get_args(Kernels) == IMPLEMENTATIONS


def test_an_implementation_that_cannot_work_here_is_one_clear_line(data, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("flash-attn may work here")
    command = ["train", str(data), "--out", str(tmp_path / "run"), *TRAIN, "--kernels", "flash"]
    assert main(command) == 2
    assert "kernels=flash cannot be used here: q has dtype" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
