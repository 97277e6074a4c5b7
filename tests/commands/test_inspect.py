import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.spaces import Box

from fastad.base.errors import CheckFailedError, UserError
from fastad.cli import main
from fastad.commands.inspect import InspectConfig, run_inspect
from fastad.histories import create


@pytest.fixture
def show(capsys, monkeypatch):
    """What `fastad inspect` prints on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(path, **changes):
        run_inspect(InspectConfig(path, **changes))
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(("squash", "word"), [(False, "clipped"), (True, "squashed")])
def test_how_actions_come_into_their_box_is_told(tmp_path, show, squash, word):
    box = Box(-1, 1, (2,), np.float32)
    with create(
        tmp_path / "d", env="mine", num_histories=1, num_steps=2, num_tasks=1, episode_length=2,
        observation_space=box, action_space=box, squash=squash,
    ) as writer:  # fmt: skip
        zeros, ends = np.zeros((2, 2), np.float32), np.array([False, True])
        writer.append(
            task=0, observation=zeros, action=zeros, reward=np.zeros(2), terminated=ends & False,
            truncated=ends, policy=np.zeros((2, 4), np.float32),
        )  # fmt: skip
    assert f"Box, 2 float32, {word} to its bounds" in show(tmp_path / "d")


def test_a_dataset_is_described(tmp_path, make_dataset, show):
    make_dataset(tmp_path, source_knows="the movement rules, not the reward", action_noise=0.25)
    text = show(tmp_path)
    for phrase in (
        "dark-room(size=11)",
        "MultiDiscrete([9, 9])",
        "Discrete(5)",
        "explore()",
        "source knows: the movement rules, not the reward",
        "0.25 of actions are random",
        "4 train, 0 validation, 2 test",
        "6; 4 of train tasks",
        "12 per history; episodes of exactly 4",
        "2 of 2 complete",
        "KiB",
        "mean of all 6 histories",
        # Mean return of episode e is 4 * 2500 + 16 e + 6.
        "1e+04 ▁▅█ 1e+04",
        "first to last of 3 episodes",
    ):
        assert phrase in text, phrase


def test_an_ordinary_source_claims_no_knowledge(tmp_path, make_dataset, show):
    make_dataset(tmp_path)
    assert "source knows" not in show(tmp_path)


def test_an_unfinished_dataset_says_what_is_there(tmp_path, make_dataset, show):
    make_dataset(tmp_path, num_shards=3, committed=[12, 3, 0])
    text = show(tmp_path)
    assert "1 of 3 complete" in text
    assert "6 planned, 4 available" in text
    assert "12 per history planned, 3 committed in all available" in text


def test_a_dataset_without_a_complete_episode_shows_no_curve(tmp_path, make_dataset, show):
    make_dataset(tmp_path, committed=[3, 3])
    text = show(tmp_path)
    assert "no history holds a complete episode yet" in text
    assert "return per episode" not in text


def test_tokens_are_printed_on_request(tmp_path, make_dataset, show):
    make_dataset(tmp_path)
    text = show(tmp_path, tokens=True, history=4, steps=2)
    assert "history 4, task 4" in text
    lines = [line for line in text.splitlines() if line.startswith("<")]
    assert lines == [
        "<ep>0</ep><obs>4,0</obs><act>4</act><rew>4000</rew>",
        "<obs>4,1</obs><act>0</act><rew>4001</rew>",
    ]


def test_json_holds_every_printed_figure(tmp_path, make_dataset, show):
    make_dataset(tmp_path / "data")
    show(tmp_path / "data", json=tmp_path / "out" / "figures.json")
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["source_returns"] == [10_006, 10_022, 10_038]
    assert figures["num_histories_train"] == 4
    assert figures["complete"] is True
    files = [file for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert figures["bytes"] == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("history", [-1, 6])
def test_a_history_that_does_not_exist_is_named(tmp_path, make_dataset, history):
    make_dataset(tmp_path)
    with pytest.raises(UserError, match=rf"history={history} must lie in \[0, 6\)"):
        run_inspect(InspectConfig(tmp_path, history=history))


def test_a_folder_that_is_neither_dataset_nor_run_says_so(tmp_path):
    with pytest.raises(UserError, match=r"neither a dataset .* nor a run"):
        run_inspect(InspectConfig(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        run_inspect(InspectConfig(tmp_path / "absent"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder as a demo leaves it."""
    out = tmp_path_factory.mktemp("demo")
    room = ["--env-options", "size=3", "episode_length=4", "--num-test-tasks", "2"]
    sizes = ["--num-histories", "24", "--num-episodes", "5"]
    assert main(["collect", str(out / "data"), *room, *sizes]) == 0
    model = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "2"]
    assert main(["train", str(out / "data"), "--out", str(out / "run"), *model]) == 0
    return out


def test_a_demo_s_folder_shows_its_dataset_and_its_run(demo, show, tmp_path):
    text = show(demo, verify=True, json=tmp_path / "figures.json")
    assert text.index("24; 24 of train tasks") < text.index("2 of 2, loss")
    assert f"{demo}: every file is what was written, but for metrics.jsonl" in text
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["data"]["num_histories"], figures["run"]["updates_done"]) == (24, 2)


def test_the_run_alone_is_shown_as_itself(demo, show, tmp_path):
    text = show(demo / "run", json=tmp_path / "figures.json")
    assert "dark-room(size=3, episode_length=4)" in text
    assert json.loads((tmp_path / "figures.json").read_text())["updates_done"] == 2


def test_damage_in_either_part_of_a_demo_is_named(demo, show, tmp_path, capsys):
    copy = shutil.copytree(demo, tmp_path / "demo")
    for file in (copy / "data" / "shard-00000" / "reward.npy", copy / "run" / "made_by.json"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(CheckFailedError, match="2 found that are not what was written"):
        show(copy, verify=True)
    shown = capsys.readouterr().out
    assert "reward.npy: damaged" in shown
    assert "made_by.json" in shown


def test_what_is_unfinished_is_shown_but_not_called_verified(tmp_path, make_dataset, capsys):
    make_dataset(tmp_path, num_shards=3, committed=[12, 3, 12])
    assert main(["inspect", str(tmp_path), "--verify"]) == 2
    shown = capsys.readouterr()
    assert f"not verified: {tmp_path}/shard-00001: 3 of 12 steps are there" in shown.out
    assert "2 of 3 complete" in shown.out
    assert "what was written" not in shown.out
    assert "is not verified in full: of 1 named above there is no digest" in shown.err


def test_what_is_damaged_counts_more_than_what_is_unfinished(tmp_path, make_dataset, capsys):
    make_dataset(tmp_path, num_shards=3, committed=[12, 3, 12])
    file = tmp_path / "shard-00000" / "reward.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert main(["inspect", str(tmp_path), "--verify"]) == 1
    shown = capsys.readouterr().out
    assert "shard-00001: 3 of 12" in shown
    assert f"{file}: damaged" in shown


def test_a_run_from_before_digests_is_not_called_verified(demo, tmp_path, capsys):
    run = shutil.copytree(demo / "run", tmp_path / "run")
    (run / "manifest.json").unlink()
    (run / ".fastad-run").unlink()
    assert main(["inspect", str(run), "--verify"]) == 2
    assert "not verified: " in capsys.readouterr().out


def test_the_command_is_declared_without_heavy_imports():
    code = (
        "import sys, fastad.commands.inspect\n"
        "print([m for m in ('torch', 'rich', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
