"""Several ranks do what one does: in one world of two processes, which all tests here look into."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import fastad
from fastad.base.errors import UserError
from fastad.base.launched import launched
from fastad.model.share import Dropout, Share, take_share
from fastad.training.run_files import read_made_by
from tests.training.ranks import AD, ADAMW, RL2, SAME, ending, stop_after

# Processes start slowly on a machine that has much else to do. Not in every run, for their
# time, and while it is young that ranks let gloo's threads go before they destroy their group.
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


def collect(path, **changes):
    room = {"size": 3, "episode_length": 4}
    return fastad.collect(
        out=path, env_options=room, num_histories=24, num_episodes=5, num_test_tasks=2, **changes
    ).path


def start(data, out):
    """Two ranks, as a launcher starts them that does not look after them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.training.ranks", str(data), str(out)]
    return [
        subprocess.Popen(
            command, env=os.environ | world | {"RANK": str(r), "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE, text=True,
        )
        for r in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where the runs of two ranks are, and how each of these ended."""
    out = tmp_path_factory.mktemp("ranks")
    data = collect(out / "data")
    collect(out / "other", seed=1)
    settings = {"data": data, "resume": True, "threads": 1}
    assert "Keyboard" in ending(
        out=out / "begun-by-one", progress=stop_after(3), **settings, **ADAMW
    )
    ranks = start(data, out)
    try:
        errors = [rank.communicate(timeout=900)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, -9], errors
    return out, [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """Runs of one rank that takes whole batches, by name."""
    out = tmp_path_factory.mktemp("alone")
    for name, settings in SAME.items():
        if "-" not in name:
            whole = {**settings, "accumulate": 1, "threads": 1}
            fastad.train(data=world[0] / "data", out=out / name, **whole)
    return out


def losses(run):
    return torch.tensor([record["loss"] for record in fastad.Run(run).metrics if "loss" in record])


def weights(run, step=6):
    folder = run / "checkpoints" / f"step-{step:08d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_learn_what_one_learns(world, alone, name):
    out, ends = world
    assert [end[name] for end in ends] == ["done", "done"]
    one, two = losses(alone / name.partition("-")[0]), losses(out / name)
    # Sums in another order. bf16 rounds at 1/256, and takes products in other blocks.
    torch.testing.assert_close(two, one, rtol=0, atol=0.01 if name == "bf16" else 2e-5)
    assert len(one.unique()) == len(one)


def test_dropout_that_ignored_the_rows_would_be_seen(world, alone):
    one = losses(alone / "ad")
    fastad.train(
        data=world[0] / "data", out=alone / "other-masks", threads=1, **{**AD, "dropout": 0.11}
    )
    assert (losses(alone / "other-masks") - one).abs().max() > 1e-3


def test_a_stopped_and_resumed_run_of_two_ranks_ends_with_the_same_bits(world):
    out, (first, second) = world
    assert (first["stopped"], second["stopped"]) == ("KeyboardInterrupt()", 130)
    assert (first["resumed"], second["resumed"]) == ("done", "done")
    whole, broken = weights(out / "ad"), weights(out / "broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_checkpoint_of_one_rank_is_resumed_by_two(world, alone):
    out, ends = world
    assert [end["from one"] for end in ends] == ["done", "done"]
    torch.testing.assert_close(
        losses(out / "begun-by-one"), losses(alone / "adamw"), rtol=0, atol=2e-5
    )


def test_a_checkpoint_of_two_ranks_is_resumed_by_one_which_says_so(world, alone, caplog):
    out, _ = world
    shutil.copytree(out / "begun-by-two", alone / "resumed")
    with caplog.at_level("INFO", "fastad"):
        fastad.train(data=out / "data", out=alone / "resumed", resume=True, **AD)
    torch.testing.assert_close(losses(alone / "resumed"), losses(alone / "ad"), rtol=0, atol=2e-5)
    assert "resumed with parallel: fsdp2 -> none; ranks: 2 -> 1: results may differ" in caplog.text
    facts = read_made_by(out / "begun-by-two")["numerics"]
    assert (facts["ranks"], facts["accumulate"], facts["parallel"]) == (2, 1, "fsdp2")


def test_a_run_from_before_there_were_ranks_says_nothing(world, alone, caplog):
    facts = read_made_by(alone / "ad")["numerics"]
    assert (facts["ranks"], facts["accumulate"], facts["parallel"]) == (1, 1, "none")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("seeds", "ranks disagree: seed=0 on rank 0, 1 on rank 1; start all of them with the same"),
        (
            "sizes",
            "batch_size=9 cannot be dealt out over ranks=2 x accumulate=1; use a multiple of",
        ),
        ("data", "rank 1: dataset "),
        ("contents", "ranks disagree: data="),
        ("nan", "loss=nan, gradient_norm=nan at update 0: training stopped; no checkpoint yet"),
    ],
)
def test_the_first_rank_says_once_what_is_wrong_with_any(world, name, said):
    out, (first, second) = world
    assert first[name].startswith(said)
    assert second[name] == 2
    assert not (out / "refused").exists()


def test_a_request_to_stop_that_one_rank_gets_stops_all_after_the_same_update(world):
    out, (first, second) = world
    assert (first["terminated"], second["terminated"]) == ("Stopped('SIGTERM')", 143)
    assert fastad.Run(out / "terminated").updates == 4
    (kept,) = (out / "terminated" / "checkpoints").iterdir()
    assert kept.name == "step-00000004"


def test_a_rank_that_is_killed_ends_the_others_with_one_message(world):
    out, (first, second) = world
    assert first["killed"].startswith("another of the 2 ranks is gone, and training stopped")
    assert "killed" not in second
    (kept,) = (out / "killed" / "checkpoints").iterdir()
    assert kept.name == "step-00000002"


def test_masks_of_parts_are_those_of_the_whole():
    whole, part = Dropout(0.3), Dropout(0.3)
    x = torch.rand(6, 5, 4)
    torch.manual_seed(0)
    expected = whole(x)
    rows = torch.tensor([3, 4])
    take_share(part, Share(rows, total=6))
    torch.manual_seed(0)
    assert torch.equal(part(x[rows]), expected[rows])
    assert (expected == 0).any()


@pytest.mark.parametrize("settings", [AD, RL2], ids=["ad", "rl2"])
def test_batches_taken_in_parts_give_the_same_losses(world, alone, tmp_path, settings):
    fastad.train(data=world[0] / "data", out=tmp_path, threads=1, **settings, accumulate=4)
    whole = losses(alone / settings.get("method", "ad"))
    torch.testing.assert_close(losses(tmp_path), whole, rtol=0, atol=2e-5)


def test_parts_must_be_equal(world, tmp_path):
    with pytest.raises(UserError, match="ranks=1 x accumulate=3; use a multiple of 3, as 6 or 9"):
        fastad.train(data=world[0] / "data", out=tmp_path, **AD, accumulate=3)


def test_a_launcher_that_makes_no_sense_is_refused(monkeypatch):
    values = {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="RANK=2, WORLD_SIZE=2"):
        launched()


def torchrun(*arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return subprocess.Popen(
        [*command, "2", "-m", "fastad", "train", *map(str, arguments)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


ROOM = ["--width", "16", "--num-layers", "2", "--context", "12", "--batch-size", "8"]


def test_torchrun_passes_a_request_to_stop_on_and_the_run_goes_on_by_one_rank(tmp_path):
    data, out = collect(tmp_path / "data"), tmp_path / "run"
    long = [*ROOM, "--updates", "100000", "--log-every", "1", "--eval-every", "0"]
    launcher = torchrun(data, "--out", out, *long)
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 4:
        assert launcher.poll() is None, launcher.communicate()[0]
        time.sleep(0.1)
    launcher.send_signal(signal.SIGTERM)
    said = launcher.communicate(timeout=300)[0]
    assert said.count("fastad: stopped by SIGTERM; what was finished is kept; go on with: ") == 1
    assert "go on with: torchrun --nproc-per-node 2 -m fastad train" in said
    run = fastad.Run(out)
    (kept,) = run.checkpoints
    assert kept.name == f"step-{run.updates:08d}"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
def test_compiled_ranks_learn_what_one_rank_learns(tmp_path, layout):
    data = collect(tmp_path / "data")
    compiled = [*ROOM, "--updates", "4", "--log-every", "1", "--eval-every", "0", "--compile"]
    two = torchrun(data, "--out", tmp_path / "two", *compiled, "--parallel", layout)
    said = two.communicate()[0]
    assert two.returncode == 0, said
    fastad.train(
        data=data, out=tmp_path / "one", width=16, num_layers=2, context=12, batch_size=8,
        updates=4, log_every=1, eval_every=0,
    )  # fmt: skip
    torch.testing.assert_close(
        losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=2e-5
    )
