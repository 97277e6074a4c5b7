"""What decides the bits of a run: kept in it, taken again on resume, or told."""

import json
import os
import shutil

import pytest
import torch

from fastad.cli import main
from fastad.model.config import ModelConfig
from fastad.training import numerics

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
TRAIN = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "8"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    assert main(["collect", str(folder / "data"), *COLLECT]) == 0
    return folder


@pytest.fixture(autouse=True)
def _as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    numerics.impose_kernels({})


def train(world, run, *options):
    return ["train", str(world / "data"), "--out", str(run), *TRAIN, *options]


def facts(run):
    return json.loads((run / "made_by.json").read_text())["numerics"]


def test_a_run_keeps_what_auto_chose(world, tmp_path):
    run = tmp_path / "run"
    assert main(train(world, run, "--threads", "1")) == 0
    kept = facts(run)
    assert (kept["device"], kept["threads"], kept["torch"]) == ("cpu", 1, torch.__version__)
    assert {"attention", "decode", "projection", "mlp"} <= kept["kernels"].keys()
    assert set(kept["kernels"].values()) - {kept["kernels"].get("library")} <= {"native", "sdpa"}


def begin_with(world, run, monkeypatch, choice):
    """Begin a run on a machine where `auto` takes `choice` for everything, and stop it."""
    with monkeypatch.context() as patch:
        patch.setattr("fastad_kernels.native.choices.prefer", lambda *_: (choice, "measured"))
        patch.setattr("fastad_kernels.native.prefer", lambda *_: (choice, "measured"))
        assert main(train(world, run, "--checkpoint-every", "4")) == 0
    assert facts(run)["kernels"]["attention"] == choice
    shutil.rmtree(run / "checkpoints" / "step-00000008")


def test_auto_takes_what_the_run_was_begun_with(world, tmp_path, monkeypatch, capsys):
    run, plain = tmp_path / "run", tmp_path / "plain"
    begin_with(world, run, monkeypatch, "sdpa")
    capsys.readouterr()
    assert main(train(world, run, "--checkpoint-every", "4", "--resume")) == 0
    assert "resumed with" not in capsys.readouterr().out
    assert main(train(world, plain, "--kernels", "sdpa")) == 0
    weights = [r / "checkpoints" / "step-00000008" / "model.safetensors" for r in (run, plain)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_of_before_tables_had_a_kernel_is_told_that_they_have_one():
    settings = {
        "kernels": "auto", "device": "cpu", "threads": 1, "precision": "fp32",
        "layout": numerics.BY_ITSELF,
    }  # fmt: skip
    model = ModelConfig(context=8, width=16, num_heads=1, num_layers=1)
    begun = numerics.settle(model, begun=None, **settings).facts
    of_before = {k: v for k, v in begun["kernels"].items() if k != "embedding"}
    again = numerics.settle(model, begun=begun | {"kernels": of_before}, **settings)
    assert again.facts == begun
    now = begun["kernels"]["embedding"]
    expected = [] if now == "sdpa" else [f"kernels.embedding: sdpa -> {now}"]
    assert again.changed == expected


def test_kernels_that_are_not_to_be_had_any_more_are_refused_not_replaced(
    world, tmp_path, monkeypatch, capsys
):
    from fastad_kernels import native

    if native.why_unavailable() is not None:
        pytest.skip("needs the C++ kernels")
    run = tmp_path / "run"
    begin_with(world, run, monkeypatch, "native")
    # As when the compiler could not be started for a moment.
    monkeypatch.setattr("fastad_kernels.native.build.why_unavailable", lambda: "no compiler")
    assert main(train(world, run, "--resume")) == 2
    complaint = capsys.readouterr().err
    assert "begun with other kernels than can be used here" in complaint
    assert "no compiler" in complaint
    # Asked for by name, other kernels are taken, and the difference is told.
    assert main(train(world, run, "--resume", "--kernels", "sdpa")) == 0
    assert "resumed with kernels.attention: native -> sdpa" in capsys.readouterr().out


@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two threads to differ")
def test_threads_are_those_of_the_beginning_unless_somebody_asks(world, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(train(world, run, "--threads", "2")) == 0
    torch.set_num_threads(1)
    assert main(train(world, run, "--resume")) == 0
    assert torch.get_num_threads() == 2
    assert "resumed with" not in capsys.readouterr().out
    assert main(train(world, run, "--resume", "--threads", "1")) == 0
    assert "resumed with threads: 2 -> 1: results may differ" in capsys.readouterr().out


NEOVERSE = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\nCPU revision\t: 1\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [("model name\t: AMD EPYC 7763\n", "AMD EPYC 7763"), (NEOVERSE, "aarch64 0x41 0xd0c")],
)
def test_processors_are_told_apart_on_x86_and_on_arm(tmp_path, monkeypatch, content, name):
    monkeypatch.setattr(numerics.platform, "processor", lambda: "aarch64")
    (tmp_path / "cpuinfo").write_text(content)
    assert numerics._processor(torch.device("cpu"), tmp_path / "cpuinfo") == name
