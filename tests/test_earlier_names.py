"""What earlier versions called otherwise is still understood: flags, configs, runs, datasets."""

import json
from pathlib import Path

import pytest
import yaml

from fastad.base.config import load_config
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.configs import RolloutConfig, TrainConfig
from fastad.histories.reader import HistoryDataset

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
TRAIN = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "2"]


@pytest.fixture
def data(tmp_path):
    assert main(["collect", str(tmp_path / "data"), *COLLECT]) == 0
    return tmp_path / "data"


@pytest.mark.parametrize("flag", [["--attention", "sdpa"], ["--attention=sdpa"]])
def test_the_flag_works_by_its_earlier_name_and_says_the_new_one_once(data, capsys, flag):
    run = data.with_name("run")
    capsys.readouterr()
    assert main(["train", str(data), "--out", str(run), *TRAIN, *flag]) == 0
    assert capsys.readouterr().err.count("--attention is now --kernels") == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["kernels"] == "sdpa"


def test_commands_that_never_had_the_flag_do_not_learn_it(tmp_path, capsys):
    assert main(["collect", str(tmp_path / "data"), "--attention", "sdpa"]) == 2
    assert "unknown option of fastad collect: '--attention'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [TrainConfig, RolloutConfig])
def test_a_config_file_is_read_by_the_earlier_name(kind, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("attention: native\n")
    assert load_config(file, "any", kind).kernels == "native"
    file.write_text("attention: native\nkernels: sdpa\n")
    with pytest.raises(UserError, match=r"unknown field in .*'attention'"):
        load_config(file, "any", kind)


def test_a_run_from_before_is_inspected_resumed_and_rolled_out(data, capsys):
    run = data.with_name("run")
    assert main(["train", str(data), "--out", str(run), *TRAIN]) == 0
    # As it was written then; its digest was of those bytes.
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("kernels: auto", "attention: auto"))
    manifest = run / "manifest.json"
    from fastad.training.run_files import seal_run, verify_run

    names = json.loads(manifest.read_text())["files"].keys() - {".fastad-run"}
    seal_run(run, {name: (run / name).read_bytes() for name in names})
    assert verify_run(run) == []
    assert main(["inspect", str(run), "--verify"]) == 0
    resumed = ["train", "--config", str(config), "--out", str(run), "--data", str(data)]
    assert main([*resumed, "--resume"]) == 0
    assert main(["train", str(data), "--out", str(run), *TRAIN, "--resume"]) == 0
    assert main(["rollout", str(run), "--episodes", "1"]) == 0


def test_which_learner_a_history_is_of_is_read_by_the_name_that_it_had():
    data = Path(__file__).parent / "histories" / "schema-1" / "whole"
    stored = [json.loads(file.read_text()) for file in sorted(data.glob("shard-*/meta.json"))]
    assert HistoryDataset(data).learner_ids == [i for meta in stored for i in meta["seeds"]]
