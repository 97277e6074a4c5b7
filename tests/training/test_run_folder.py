"""Run folders: one writer, nothing deleted that is not ours, no byte changed unnoticed."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fastad.cli import main
from fastad.training.checkpoint_folder import verify_checkpoints
from fastad.training.run_files import read_metrics, verify_run
from tests.training.small_run import MODEL, SHORT, fails, train


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- possession


@pytest.mark.parametrize(
    "name", ["checkpoints/mine.pt", "dataset.tar.gz", "checkpoints.old", "rollouts/notes.md",
             "checkpoints/step-00000006/eval.csv", "config.yaml.orig"],
)  # fmt: skip
def test_overwrite_deletes_nothing_that_fastad_did_not_write(world, run, capsys, name):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("precious")
    before = snapshot(run)
    complaint = fails(capsys, *train(world, run, "--overwrite"))
    assert f"holds more than a run ({name})" in complaint
    assert snapshot(run) == before


@pytest.mark.parametrize("flag", ["--overwrite", "--resume", None])
def test_a_folder_without_the_marker_is_never_written_to(world, tmp_path, capsys, flag):
    # Every name is one of ours, and nothing is.
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("command: train\n")
    (tmp_path / "metrics.jsonl").write_text("")
    before = snapshot(tmp_path)
    options = [] if flag is None else [flag]
    complaint = fails(capsys, *train(world, tmp_path, *options))
    assert "holds checkpoints, config.yaml, metrics.jsonl, but no .fastad-run" in complaint
    assert snapshot(tmp_path) == before


def test_a_link_in_place_of_checkpoints_is_not_followed(world, run, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(run / "checkpoints", elsewhere)
    (run / "checkpoints").symlink_to(elsewhere)
    before = snapshot(elsewhere)
    assert "holds more than a run (checkpoints)" in fails(capsys, *train(world, run, "--overwrite"))
    assert snapshot(elsewhere) == before


def test_overwrite_leaves_the_new_run_alone_in_the_folder(world, run):
    (run / "rollouts").mkdir()
    (run / "rollouts" / "20260101-120000-test.json").write_text("{}")
    arguments = [str(a) for a in train(world, run, "--overwrite", "--seed", "5")]
    assert main(arguments) == 0
    assert not (run / "rollouts").exists()
    assert verify_run(run) == []
    assert "seed: 5" in (run / "config.yaml").read_text()


def test_an_old_checkpoint_with_a_users_file_in_it_stays(world, run):
    mine = run / "checkpoints" / "step-00000003" / "eval.csv"
    mine.write_text("precious")
    again = train(world, run, "--resume", "--updates", "6")
    assert main([str(a) for a in again]) == 0
    assert mine.read_text() == "precious"


def test_a_second_training_is_refused_and_told_who_has_the_run(world, tmp_path, capsys):
    run = tmp_path / "run"
    long = [*MODEL, "--updates", "100000", "--log-every", "1", "--checkpoint-every", "1"]
    command = ["train", str(world / "data"), "--out", str(run), *long]
    with subprocess.Popen(
        [sys.executable, "-m", "fastad", *command], stdout=subprocess.DEVNULL
    ) as first:
        try:
            deadline = time.monotonic() + 120
            while not list(run.glob("checkpoints/step-*0")) and time.monotonic() < deadline:
                time.sleep(0.02)
            for flag in ("--resume", "--overwrite"):
                complaint = fails(capsys, *command, flag)
                assert "is being written by another process" in complaint
                assert f"process {first.pid} on " in complaint
            # A rollout only reads, and leaves its results beside.
            assert main(["rollout", str(run), "--episodes", "1", "--threads", "1"]) == 0
        finally:
            first.send_signal(signal.SIGTERM)
    assert first.returncode == 143
    steps = [record["step"] for record in read_metrics(run / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))


# --- damage


def flips(run, number, generator):
    """Files of a run, each with single bits flipped one after the other, then as it was."""
    for file in sorted(p for p in run.rglob("*") if p.is_file()):
        content = file.read_bytes()
        if file.name == "metrics.jsonl" or not content:
            continue
        for _ in range(number):
            position = generator.randrange(8 * len(content))
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << position % 8
            file.write_bytes(damaged)
            yield file, position
        file.write_bytes(content)


def test_every_flipped_bit_of_every_file_but_the_metrics_is_noticed(run):
    assert verify_run(run) + verify_checkpoints(run).wrong == []
    checked = set()
    for file, position in flips(run, 20, random.Random(0)):
        wrong = verify_run(run) + verify_checkpoints(run).wrong
        # The way on may name others; the damage is named first.
        assert any(file.name in line or file.parent.name in line for line in wrong), position
        checked.add(file.relative_to(run).as_posix())
    assert {".fastad-run", "config.yaml", "made_by.json", "manifest.json"} <= checked
    assert {"dataset/dataset.json", "dataset/tasks.npy"} <= checked
    assert len(checked) == 6 + 2 * 5  # two checkpoints of five files


def test_inspect_verifies_a_run_and_names_each_file_that_differs(run, capsys):
    command = ["inspect", str(run), "--verify"]
    assert main(command) == 0
    assert "every file is what was written" in capsys.readouterr().out
    damaged = [run / "made_by.json", run / "checkpoints" / "step-00000003" / "state.json"]
    for file in damaged:
        file.write_bytes(file.read_bytes().replace(b":", b";", 1))
    assert main(command) == 1
    shown = capsys.readouterr()
    assert all(f"{file}" in shown.out for file in damaged)
    assert "2 found that are not what was written" in shown.err


def test_a_checkpoint_that_was_taken_away_is_missed_until_it_is_made_again(world, run, capsys):
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    assert main(["inspect", str(run), "--verify"]) == 2
    said = capsys.readouterr().out
    assert "not verified" in said
    assert "tells of 6 updates, the newest checkpoint of 3" in said
    assert "step-00000006 was taken away" in said
    older = run / "checkpoints" / "step-00000003"
    for acting, told in ((run, True), (older, False)):  # who names a checkpoint wants that one
        assert main(["rollout", str(acting), "--episodes", "1"]) == 0
        assert ("the newest checkpoint of 3" in capsys.readouterr().out) is told
    assert main([str(a) for a in train(world, run, "--resume")]) == 0
    assert main(["inspect", str(run), "--verify"]) == 0
    capsys.readouterr()
    assert main(["rollout", str(run), "--episodes", "1"]) == 0
    assert "newest checkpoint" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_way_on_is_a_whole_one(world, run, capsys, name):
    newest, older = (run / "checkpoints" / f"step-0000000{step}" for step in (6, 3))
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / name).write_bytes(content)
    before = snapshot(run)
    complaint = fails(capsys, *train(world, run, "--resume"))
    assert f"{newest / name} is missing or damaged" in complaint
    assert f"{older} is whole: name that one, or delete {newest} and --resume" in complaint
    after = snapshot(run)
    assert {k: v for k, v in after.items() if "checkpoints" in str(k)} == {
        k: v for k, v in before.items() if "checkpoints" in str(k)
    }
    shutil.rmtree(newest)
    assert main([str(a) for a in train(world, run, "--resume")]) == 0
    good = world / "run" / "checkpoints" / "step-00000006" / "model.safetensors"
    assert (newest / "model.safetensors").read_bytes() == good.read_bytes()


def test_the_optimizer_of_another_update_is_refused(world, run, capsys):
    newest, older = (run / "checkpoints" / f"step-0000000{step}" for step in (6, 3))
    shutil.copy(older / "optimizer.safetensors", newest / "optimizer.safetensors")
    complaint = fails(capsys, *train(world, run, "--resume"))
    assert "step-00000006/optimizer.safetensors is missing or damaged" in complaint
    shutil.rmtree(newest)
    older.rename(newest)
    assert "holds the checkpoint of update 3" in fails(capsys, *train(world, run, "--resume"))


def test_settings_changed_by_hand_are_noticed(world, run, capsys):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    for command in (train(world, run, "--resume"), ["rollout", run], ["inspect", run]):
        assert "config.yaml: damaged, not the content" in fails(capsys, *command)


@pytest.mark.parametrize("kind", ["file", "link", "pipe", "name"])
def test_what_is_named_like_a_checkpoint_and_is_none_is_refused(world, run, capsys, kind):
    import os

    odd = run / "checkpoints" / ("step-zzz" if kind == "name" else "step-00000099")
    if kind == "name":
        odd.mkdir()
    elif kind == "file":
        odd.write_text("")
    elif kind == "link":
        odd.symlink_to(run / "checkpoints" / "step-00000006")
    else:
        os.mkfifo(odd)
    for command in (["rollout", run], ["inspect", run], train(world, run, "--resume")):
        complaint = fails(capsys, *command)
        assert f"{odd} is a " in complaint or f"({odd.name}" in complaint


@pytest.mark.parametrize("name", ["state.json", "manifest.json", "model.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(run, capsys, name):
    import os

    file = run / "checkpoints" / "step-00000006" / name
    file.unlink()
    os.mkfifo(file)
    wrong = verify_checkpoints(run).wrong  # nobody writes into the pipe: to wait for it is for ever
    assert any("is a pipe, not a regular file" in line or "damaged" in line for line in wrong)


def test_a_damaged_line_of_the_metrics_costs_no_other(world, run, capsys):
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines()
    bad = [lines[0], "{\x1b[31m", lines[1], '{"loss": 1.0}', "[" * 100_000, *lines[2:], '{"st']
    file.write_text("\n".join(bad))
    steps = [1, 2, 3, 4, 5, 6, 6]  # the last with an evaluation
    assert [record["step"] for record in read_metrics(file)] == steps
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 0
    # The last line, torn by a kill, is no damage.
    assert "3 damaged, left out: line 2, 4, 5\n" in capsys.readouterr().out
    again = [str(a) for a in train(world, run, "--resume")]
    assert main(again) == 0
    assert "metrics.jsonl: 3 damaged, left out" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in file.open()] == steps
    assert main(again) == 0
    assert "left out" not in capsys.readouterr().out  # said once


def test_weights_have_the_permissions_of_their_neighbours(world, tmp_path):
    import os

    run = tmp_path / "run"
    umask = os.umask(0o027)
    try:
        assert main([str(a) for a in train(world, run)]) == 0
    finally:
        os.umask(umask)
    modes = {p.stat().st_mode & 0o777 for p in run.rglob("*") if p.is_file()}
    assert modes == {0o640}


def test_an_evaluation_that_was_stopped_is_made_up_for(world, tmp_path, monkeypatch):
    from fastad.evaluate import learning_curve

    options = [*SHORT, "--eval-every", "2"]
    whole, cut = ["train", str(world / "data"), *options, "--out"], []
    assert main([*whole, str(tmp_path / "whole")]) == 0
    original = learning_curve.try_model

    def stop_once(*arguments, **settings):
        if not cut:
            cut.append(None)
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    monkeypatch.setattr(learning_curve, "try_model", stop_once)
    assert main([*whole, str(tmp_path / "cut")]) == 130
    assert main([*whole, str(tmp_path / "cut"), "--resume"]) == 0
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    kept = ("step", "loss", "eval_last", "eval_returns")
    one, other = ([{k: r[k] for k in kept if k in r} for r in log] for log in logs)
    assert one == other


def test_a_run_is_continued_on_data_from_before_a_field_was_added(world, run, tmp_path):
    data = shutil.copytree(world / "data", tmp_path / "data")
    older = json.loads((data / "dataset.json").read_text())
    del older["digest"], older["tasks_digest"], older["noise_labels"]
    (data / "dataset.json").write_text(json.dumps(older))
    more = [*SHORT, "--resume"]
    assert main(["train", str(data), "--out", str(run), *more]) == 0
