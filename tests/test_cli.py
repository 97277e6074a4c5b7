"""The command line: what works, and one clear line with exit code 2 for what cannot."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastad.cli import COMMANDS, main

ROOM = ["--env", "dark-room", "--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
MODEL = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "6"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset and a finished run."""
    folder = tmp_path_factory.mktemp("world")
    data, run = str(folder / "data"), str(folder / "run")
    assert main(["collect", data, *COLLECT]) == 0
    assert main(["train", data, "--out", run, *MODEL, "--eval-every", "3"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def fails(capsys, *arguments):
    """Run a command that must fail; returns its only line of complaint."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    complaint = capsys.readouterr().err.strip()
    assert "\n" not in complaint
    assert complaint.startswith("fastad: ")
    return complaint


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, fastad.cli as c; c.main(['--help']); print({'torch', 'tyro'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")
    assert all(name in done.stdout for name in COMMANDS)


def test_every_command_explains_every_option_without_torch():
    code = """
import sys, fastad.cli as c
for name in c.COMMANDS:
    try:
        c.main([name, '--help'])
    except SystemExit as stop:
        assert stop.code in (0, None)
    assert 'torch' not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"usage: fastad ([a-z]+)", done.stdout) == list(COMMANDS)


def test_collect_train_rollout_and_inspect_work_on_each_others_output(world, tmp_path, capsys):
    figures_file, again = tmp_path / "f.json", tmp_path / "again"
    rollout = ["rollout", str(world / "run"), "--episodes", "4", "--plot", str(tmp_path / "p.png")]
    assert main([*rollout, "--json", str(figures_file), "--save-histories", str(again)]) == 0
    figures = json.loads(figures_file.read_text())
    assert len(figures["returns"]) == 4
    assert "frontier knows the movement rules, not the reward" in capsys.readouterr().out
    # A rollout's histories are a dataset like any other: they can be distilled in turn.
    assert main(["inspect", str(again), "--tokens"]) == 0
    assert "<obs>1,1</obs>" in capsys.readouterr().out
    run = str(tmp_path / "run2")
    assert main(["train", str(again), "--out", run, *MODEL]) == 0
    assert main(["inspect", run]) == 0
    assert "algorithm-distillation" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_returns_with_and_without_the_cache(world, tmp_path):
    returns = []
    for flag in ("--kv-cache", "--no-kv-cache"):
        file = tmp_path / f"{flag}.json"
        plot = str(tmp_path / "p.png")
        main(["rollout", str(world / "run"), flag, "--plot", plot, "--json", str(file)])
        returns.append(json.loads(file.read_text())["returns"])
    assert returns[0] == returns[1]


def test_a_config_file_sets_what_flags_do_not(world, tmp_path, capsys):
    config = world / "run" / "config.yaml"
    run = str(tmp_path / "run")
    assert main(["train", "--config", str(config), "--out", run, "--updates", "2"]) == 0
    assert "2 updates of 12 x 20 steps" in capsys.readouterr().out


def test_doctor_checks_every_backend(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "FAILS" not in out
    for check in ("attention auto", "attention sdpa", "attention reference", "rollout, cached"):
        assert re.search(rf"{check}.* ok, ", out)
    # Elsewhere flash-attn and Triton's kernels cannot work, and the line says why.
    assert torch.cuda.is_available() or re.search(r"attention flash +not here: .*GPU", out)
    assert re.search(
        r"attention triton +(ok, |not here: .*TRITON_INTERPRET=1|not here: .*triton)", out
    )
    # Which compiled library, and by which figures "auto" chooses.
    assert re.search(r"kernels in C\+\+ +(ok, checked.* ago\n +in .*\.so\n|not here: .*need)", out)
    if "kernels in C++             ok" in out:
        for operation in ("attention: 16", "projection: 64", "mlp: 64", "decode: 16"):
            assert re.search(rf"\n +{operation} (native|sdpa) \(\d+\.\d\d\)", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (
            ["train", "--config", "drak-room"],
            "unknown preset 'drak-room'; did you mean 'dark-room'",
        ),
        (["demo", "bandits"], "unknown preset 'bandits'; did you mean 'bandit'?"),
        (["demo", "--config", "bandit"], "presets configure collect, train and rollout only"),
        (
            ["collect", "NEW", "--env", "darkroom"],
            "unknown env 'darkroom'; did you mean 'dark-room'",
        ),
        (["collect", "NEW", "--source", "ucb"], "unknown source 'ucb'; did you mean 'ucb1'?"),
        (["collect", "NEW", "--source", "ucb1"], "source 'ucb1' cannot learn env 'dark-room'"),
        (["collect", "NEW", "--env-options", "sizes=3"], "'sizes'; did you mean 'size'?"),
        (["collect", "NEW", "--env-options", "size=4"], "size=4 is not possible; it must be odd"),
        (["collect", "NEW", "--env-options", "size"], "'size' is not of the form KEY=VALUE"),
        (
            ["collect", "NEW", "--num-episodes", "0"],
            "num_episodes=0 is not possible; use 1 or more",
        ),
        (["train", "NEW", "--num-layer", "2"], "'--num-layer'; did you mean '--num-layers'?"),
        (["train", "NEW", "--updates", "many"], "updates='many' is not a whole number, such as 3"),
        (
            ["train", "NEW", "--positions", "rop"],
            "unknown positions 'rop'; did you mean 'rope'? choose one of",
        ),
        (["train", "NEW", "--device", "cudda"], "device=cudda cannot be used"),
        (["train", "NEW"], "does not exist; make one with: fastad collect new"),
        (["rollout", "NEW"], "does not exist; train one with: fastad train DATA --out new"),
        (["inspect", "NEW"], "does not exist; name a dataset or a run"),
        (["train", "--config"], "--config needs a value"),
    ],
)
def test_what_is_misspelt_or_missing_is_named_and_nothing_is_written(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *[a.replace("NEW", "new") for a in arguments])
    assert list(tmp_path.iterdir()) == []


def truncate(data):
    file = data / "shard-00000" / "action.npy"
    file.write_bytes(file.read_bytes()[:-7])


def edit_json(file, **changes):
    """As an older fastad would have written it: without a digest."""
    values = json.loads(file.read_text())
    del values["digest"]
    file.write_text(json.dumps(values | changes))


def age(data):
    edit_json(data / "dataset.json", schema_version=99)


def empty(data):
    shutil.rmtree(data)
    data.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"action\.npy.*truncated|action\.npy.*bytes"),
        (age, "schema_version=99 is newer than 2"),
        (empty, r"dataset\.json"),
    ],
)
def test_a_damaged_dataset_is_refused_before_a_run_folder_exists(
    world, tmp_path, capsys, damage, message
):
    data = shutil.copytree(world / "data", tmp_path / "data")
    damage(data)
    complaint = fails(capsys, "train", data, "--out", tmp_path / "run", *MODEL)
    assert re.search(message, complaint)
    assert not (tmp_path / "run").exists()


def test_a_dataset_of_other_spaces_than_the_runs_is_refused(world, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(world / "data", data)
    assert main(["train", str(data), "--out", str(run), *MODEL]) == 0
    shutil.rmtree(data)
    room = ["size=5" if word == "size=3" else word for word in COLLECT]
    assert main(["collect", str(data), *room]) == 0
    before = snapshot(run)
    complaint = fails(capsys, "train", data, "--out", run, *MODEL, "--resume")
    assert "is not the dataset that the run" in complaint
    assert "observation_space.nvec: [3, 3] -> [5, 5]" in complaint
    assert snapshot(run) == before


def test_a_window_longer_than_the_history_is_refused(world, tmp_path, capsys):
    out = tmp_path / "run"
    complaint = fails(capsys, "train", world / "data", "--out", out, *MODEL, "--window", 21)
    assert "window=21 is longer than history 0" in complaint
    assert "20" in complaint
    assert not out.exists()


def test_an_existing_output_asks_for_resume_or_overwrite(world, capsys):
    before = snapshot(world)
    train = ["train", world / "data", "--out", world / "run", *MODEL, "--eval-every", "3"]
    for command in (["collect", world / "data", *COLLECT], train):
        complaint = fails(capsys, *command)
        assert "--resume" in complaint
        assert "--overwrite" in complaint
    assert snapshot(world) == before


def test_resume_with_changed_settings_lists_them(world, capsys):
    before = snapshot(world)
    train = ["train", world / "data", "--out", world / "run", *MODEL, "--eval-every", "3"]
    complaint = fails(capsys, *train, "--batch-size", "5", "--num-heads", "2", "--resume")
    assert "batch_size: 12 -> 5; num_heads: 4 -> 2" in complaint
    complaint = fails(capsys, "collect", world / "data", *COLLECT, "--seed", "3", "--resume")
    assert "seed: 0 -> 3" in complaint
    assert snapshot(world) == before


def test_a_folder_with_other_things_in_it_is_never_overwritten(world, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    for command in (["collect", tmp_path, *COLLECT], ["train", world / "data", "--out", tmp_path]):
        fails(capsys, *command, "--overwrite")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_foreign_config_file_does_not_make_a_folder_a_run(world, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "src").mkdir()
    for flag in ("--overwrite", "--resume"):
        complaint = fails(capsys, "train", world / "data", "--out", tmp_path, flag)
        assert "holds more than a run (src)" in complaint
    assert (tmp_path / "src").exists()


def test_resume_and_overwrite_together_delete_nothing(world, capsys):
    before = snapshot(world)
    for command in (["collect", world / "data", *COLLECT],
                    ["train", world / "data", "--out", world / "run", *MODEL]):  # fmt: skip
        complaint = fails(capsys, *command, "--resume", "--overwrite")
        assert "contradict each other; choose one" in complaint
    assert snapshot(world) == before


def test_checkpoints_without_their_config_are_never_continued(world, tmp_path, capsys):
    # What a kill in the middle of a deletion must never turn into: new settings, old weights.
    run = shutil.copytree(world / "run", tmp_path / "run")
    (run / "config.yaml").unlink()
    complaint = fails(capsys, "train", world / "data", "--out", run, *MODEL)
    assert "holds checkpoints without their config.yaml" in complaint
    assert main(["train", str(world / "data"), "--out", str(run), *MODEL, "--overwrite"]) == 0


def test_an_unfinished_dataset_is_refused_until_it_is_finished(world, tmp_path, capsys):
    data = shutil.copytree(world / "data", tmp_path / "data")
    edit_json(data / "shard-00000" / "meta.json", committed_steps=12)
    complaint = fails(capsys, "train", data, "--out", tmp_path / "run", *MODEL)
    way_on = complaint.partition("finish it with: ")[2]
    assert way_on.startswith(f"fastad collect {data} --env-options size=3 episode_length=4 ")
    assert main(shlex.split(way_on)[1:]) == 0
    assert main(["train", str(data), "--out", str(tmp_path / "run"), *MODEL]) == 0


def test_where_things_lie_and_what_computes_them_may_change_on_resume(world, tmp_path, capsys):
    run = shutil.copytree(world / "run", tmp_path / "run")
    data = shutil.copytree(world / "data", tmp_path / "moved")
    begun = json.loads((run / "made_by.json").read_text())["numerics"]["threads"]
    train = ["train", str(data), "--out", str(run), *MODEL, "--log-every", "2", "--resume"]
    assert main([*train, "--threads", str(begun + 1)]) == 0
    assert f"resumed with threads: {begun} -> {begun + 1}: results may" in capsys.readouterr().out
    # Nobody asked for others: as many as the run was begun with.
    assert main(train) == 0
    assert "resumed with" not in capsys.readouterr().out
    assert torch.get_num_threads() == begun


def test_nested_switches_can_be_turned_off(world, tmp_path, capsys):
    train = ["train", str(world / "data"), "--out", str(tmp_path / "run"), *MODEL]
    assert main([*train, "--no-episode-step", "--no-compile"]) == 0
    (description,) = (tmp_path / "run").glob("checkpoints/*/model.json")
    assert json.loads(description.read_text())["config"]["episode_step"] is False


def test_a_checkpoint_may_be_named_from_within_its_folder(world, monkeypatch, tmp_path):
    monkeypatch.chdir(world / "run" / "checkpoints")
    (name,) = (p.name for p in Path().iterdir())
    assert main(["rollout", name, "--plot", str(tmp_path / "p.png"), "--episodes", "1"]) == 0


def test_an_empty_test_split_and_zero_episodes_are_refused(world, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    no_test = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "0"]
    assert main(["collect", str(data), *no_test]) == 0
    assert main(["train", str(data), "--out", str(run), *MODEL]) == 0
    assert "the test split is empty" in fails(capsys, "rollout", run)
    assert "fastad: episodes=0 must be at least 1" in fails(
        capsys, "rollout", world / "run", "--episodes", "0"
    )
    assert not (run / "rollout.png").exists()


def test_something_that_is_no_checkpoint_is_refused(world, tmp_path, capsys):
    assert "holds no checkpoint" in fails(capsys, "rollout", world / "data")
    copy = shutil.copytree(world / "run", tmp_path / "run")
    (newest,) = (copy / "checkpoints").iterdir()
    (newest / "model.safetensors").write_bytes(b"not weights")
    assert "model.safetensors is missing or damaged" in fails(capsys, "rollout", copy)


def test_rewards_that_are_not_numbers_are_refused_by_the_reader(world, tmp_path, capsys):
    data = shutil.copytree(world / "data", tmp_path / "data")
    rewards = np.lib.format.open_memmap(data / "shard-00000" / "reward.npy", mode="r+")
    rewards[:, 3] = np.nan
    rewards.flush()
    assert "reward.npy" in fails(capsys, "train", data, "--out", tmp_path / "run", *MODEL)
