"""`fastad train`, killed and resumed."""

import json
import subprocess
import sys
import time

import pytest

from fastad.cli import main

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
# The same number of threads in every process: sums are rounded in another order otherwise.
TRAIN = ["--width", "16", "--num-layers", "1", "--context", "12", "--dropout", "0.1"]
TRAIN += ["--updates", "200", "--checkpoint-every", "10", "--threads", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "room"
    assert main(["collect", str(path), *COLLECT]) == 0
    return path


def start(*arguments):
    command = [sys.executable, "-m", "fastad", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# Random moments of SIGKILL are in tests/faults, which every run has a part of.
@pytest.mark.parametrize("signal_name", [pytest.param("SIGKILL", marks=pytest.mark.slow), "SIGINT"])
def test_a_killed_training_resumes_to_the_very_weights_of_an_unbroken_one(
    data, tmp_path, signal_name
):
    import signal

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["train", str(data), "--out", str(whole), *TRAIN]) == 0
    process = start("train", data, "--out", broken, *TRAIN, "--resume")
    deadline = time.monotonic() + 120
    while not list(broken.glob("checkpoints/step-*0")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(getattr(signal, signal_name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {"SIGKILL": -9, "SIGINT": 130}[signal_name], errors
    last = max(p.name for p in broken.glob("checkpoints/step-????????"))
    assert last < "step-00000200"
    assert main(["train", str(data), "--out", str(broken), *TRAIN, "--resume"]) == 0
    weights = [r / "checkpoints/step-00000200/model.safetensors" for r in (whole, broken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    records = [json.loads(line) for line in (broken / "metrics.jsonl").open()]
    for kind in ("loss", "eval_last"):
        steps = [record["step"] for record in records if kind in record]
        assert steps == sorted(set(steps))
