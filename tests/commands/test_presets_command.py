"""Presets are listed, printed as YAML, and refused for data of another environment."""

from dataclasses import replace

import pytest

import fastad
from fastad.base.config import load_config
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
from fastad.presets import PRESETS, preset, preset_for

KINDS = {"collect": CollectConfig, "train": TrainConfig, "rollout": RolloutConfig}


@pytest.fixture(scope="module")
def bandits(tmp_path_factory):
    """A dataset of Gaussian bandits."""
    path = tmp_path_factory.mktemp("data") / "bandit"
    tasks = {"num_train_tasks": 8, "num_validation_tasks": 1, "num_test_tasks": 2}
    small = {"num_histories": 8, "num_episodes": 5}
    fastad.collect(CollectConfig(out=path, env="gaussian-bandit", source="ucb1", **tasks, **small))
    return path


def test_every_preset_is_listed_with_its_environment_source_and_summary(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, chosen in PRESETS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        told = [chosen.collect.env, chosen.collect.source, chosen.summary]
        assert line.split(maxsplit=3)[1:] == told


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_printed_is_read_back_as_the_preset(name, tmp_path, capsys):
    assert main(["presets", name]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    for command, kind in KINDS.items():
        assert load_config(file, command, kind) == preset_for(name, command)


def test_an_edited_preset_is_refused_with_the_section_that_is_wrong(tmp_path, capsys):
    assert main(["presets", "bandit"]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out.replace("batch_size", "batch_sizes"))
    assert main(["train", "--config", str(file)]) == 2
    assert "settings: 'batch_sizes'; did you mean 'batch_size'" in capsys.readouterr().err


def test_an_unknown_preset_is_told_the_nearest(capsys):
    assert main(["presets", "bandits"]) == 2
    assert "unknown preset 'bandits'; did you mean 'bandit'?" in capsys.readouterr().err


def test_a_preset_for_another_environment_is_refused_and_nothing_is_written(
    bandits, tmp_path, capsys
):
    run = tmp_path / "run"
    assert main(["train", str(bandits), "--config", "dark-room", "--out", str(run)]) == 2
    complaint = capsys.readouterr().err
    assert "env=dark-room is what these settings are for" in complaint
    assert f"{bandits} is of gaussian-bandit" in complaint
    with pytest.raises(UserError, match="env=dark-room is what these settings are for"):
        fastad.train(replace(preset("dark-room").train, data=bandits, out=run))
    assert not run.exists()


def test_its_settings_are_taken_when_the_environment_is_named_and_a_run_keeps_to_its_own(
    bandits, tmp_path, capsys
):
    run, train = str(tmp_path / "run"), ["train", str(bandits), "--config", "dark-room"]
    small = ["--updates", "1", "--width", "16", "--num-layers", "1", "--batch-size", "2"]
    assert main([*train, "--env", "gaussian-bandit", "--out", run, *small]) == 0
    # Said or not, it is no setting that a continued run must repeat.
    assert main([*train, "--env", "None", "--out", run, *small, "--resume"]) == 0
    capsys.readouterr()
    assert main(["rollout", run, "--config", "dark-room-full"]) == 2
    assert f"{run} is of gaussian-bandit" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "collect", "train", "rollout", "inspect", "bench"])
def test_the_help_of_whatever_takes_a_config_says_so(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    what = "--config FILE|PRESET" if command in KINDS else "--config FILE "
    assert what in capsys.readouterr().out


def test_the_help_shows_a_presets_values_as_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--config", "dark-room-full", "--help"])
    words = capsys.readouterr().out.replace("│", " ").split()
    assert "(default: 50000)" in " ".join(words[words.index("--updates") :][:20])


def test_the_help_shows_how_a_setting_is_varied(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "--vary NAME=VALUE,..." in capsys.readouterr().out


def test_a_folder_named_like_a_preset_does_not_hide_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bandit").mkdir()
    assert main(["train", "--config", "bandit"]) == 2
    assert "dataset data/bandit does not exist" in capsys.readouterr().err
