"""Where results go by default, and the commands that are printed to go on with."""

import shlex
from pathlib import Path

import pytest

from fastad.base.config import format_options, parse_options, typed
from fastad.cli import main
from fastad.cli.flags import parse
from fastad.commands.collect import run_collect
from fastad.configs import CollectConfig, TrainConfig
from fastad.presets import preset

COLLECT = ["--env-options", "size=3", "episode_length=4", "--num-histories", "24"]
TRAIN = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "2"]


def next_line(capsys):
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("next: fastad ")]
    return shlex.split(line)[2:]


def test_each_command_prints_the_next_which_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "data/my room", *COLLECT, "--num-test-tasks", "2"]) == 0
    train = next_line(capsys)
    assert train == ["train", "data/my room"]
    assert main([*train, *TRAIN]) == 0
    rollout = next_line(capsys)
    assert rollout == ["rollout", "runs/my room"]
    assert main([*rollout, "--episodes", "1"]) == 0


def test_labels_that_look_ahead_are_learned_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = ["--source", "q-learning", "--labels", "final", "--num-test-tasks", "2"]
    assert main(["collect", "data/labelled", *COLLECT, *source]) == 0
    train = next_line(capsys)
    assert train == ["train", "data/labelled", "--target", "final"]
    assert main([*train, *TRAIN]) == 0
    assert next_line(capsys) == ["rollout", "runs/labelled"]


def test_a_folder_is_named_by_the_environment_or_by_the_data(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert CollectConfig(env="gaussian-bandit").folder == Path("data/gaussian-bandit")
    assert CollectConfig(env="gym:ALE/Pong-v5").folder == Path("data/gym-ALE-Pong-v5")
    assert TrainConfig(data=Path("data/room/")).folder == Path("runs/room")
    assert TrainConfig(data=Path()).folder == Path("runs") / tmp_path.name
    assert TrainConfig(data=Path("data/room"), out=Path("r")).folder == Path("r")


@pytest.mark.parametrize("line", ["data/room --config dark-room", "--config dark-room data/room"])
def test_a_preset_for_other_data_writes_beside_its_own_run(line):
    assert parse("train", line.split()).folder == Path("runs/room")
    assert parse("train", ["--config", "dark-room"]).folder == Path("runs/dark-room")


@pytest.mark.parametrize(
    ("changes", "preset_name"), [([], "bandit"), (["--seed", "3"], "bandit"),
                                 (["--num-episodes", "9"], None)],
)  # fmt: skip
def test_what_a_preset_collected_is_trained_on_with_its_settings(
    changes, preset_name, monkeypatch, capsys
):
    import fastad.api
    import fastad.commands.collect as command

    monkeypatch.setattr(fastad.api, "collect", lambda config, progress: None)
    monkeypatch.setattr(command, "print_summary", lambda dataset: None)
    run_collect(parse("collect", ["--config", "bandit", *changes]))
    words = ["train", "data/bandit"] + (["--config", preset_name] if preset_name else [])
    assert next_line(capsys) == words


def test_the_words_for_a_config_mean_the_config():
    config = CollectConfig(
        out=Path("a b"),
        env_options=format_options({"size": 3, "start": "centre", "terminate_on_goal": True}),
        action_noise=0.05,
        resume=True,
    )
    assert parse("collect", typed(config, bare="out")) == config
    assert parse_options("env_options", config.env_options)["terminate_on_goal"] is True
    assert parse("train", typed(preset("dark-room-full").train)) == preset("dark-room-full").train
