"""Which tasks a run looks at while it trains, and which it reports."""

import json

import pytest

from fastad.cli import main

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
TRAIN = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "2"]


@pytest.fixture
def data(tmp_path):
    assert main(["collect", str(tmp_path / "data"), *COLLECT]) == 0
    return tmp_path / "data"


def train(data, capsys):
    """Train beside `data`, rolling out after every update; returns the run and what was said."""
    run = data.with_name("run")
    capsys.readouterr()
    assert main(["train", str(data), "--out", str(run), *TRAIN, "--eval-every", "1"]) == 0
    return str(run), capsys.readouterr().out


def test_what_is_looked_at_while_training_is_from_validation_tasks(data, capsys):
    run, said = train(data, capsys)
    assert "no validation tasks" not in said
    assert "the source frontier knows the movement rules, not the reward" in said
    # Of the room's 8 tasks 2 are for the test and half as many for validation.
    assert main(["rollout", run, "--episodes", "1", "--split", "validation"]) == 0
    assert "1 tasks for validation, never trained on" in capsys.readouterr().out


def test_a_dataset_without_validation_tasks_says_what_is_looked_at_instead(data, capsys):
    older = json.loads((data / "dataset.json").read_text())
    older["num_test"] += older.pop("num_validation")  # written before there was such a field
    del older["digest"], older["tasks_digest"]
    (data / "dataset.json").write_text(json.dumps(older))
    run, said = train(data, capsys)
    assert "during training comes from its test tasks" in said
    assert main(["rollout", run, "--split", "validation"]) == 2
    complaint = capsys.readouterr().err
    assert "the validation split is empty; collect with --num-validation-tasks" in complaint


def test_rollouts_of_any_split_are_a_dataset_whose_train_tasks_they_are(data, capsys):
    from fastad.histories.reader import HistoryDataset

    run, _ = train(data, capsys)
    whole = HistoryDataset(data)
    splits = {
        "train": (whole.train_tasks, whole.validation_tasks, whole.test_tasks),
        "validation": (whole.validation_tasks, whole.tasks[:0], whole.test_tasks),
        "test": (whole.test_tasks, whole.validation_tasks, whole.train_tasks),
    }
    for split, expected in splits.items():
        out = data.with_name(split)
        rollout = ["rollout", run, "--episodes", "1", "--split", split]
        assert main([*rollout, "--save-histories", str(out)]) == 0
        saved = HistoryDataset(out)
        found = saved.train_tasks, saved.validation_tasks, saved.test_tasks
        assert [part.tolist() for part in found] == [part.tolist() for part in expected]
