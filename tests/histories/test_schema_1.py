"""Datasets of schema 1, as fastad wrote them before columns had the names of `Transition`.

`schema-1/whole` is of Q-learning in Dark Key-to-Door, whose episodes vary in length; of
`schema-1/begun`, one shard of two is collected.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastad.cli import main
from fastad.histories.reader import HistoryDataset
from fastad.histories.verify import verify_dataset

HERE = Path(__file__).parent / "schema-1"
BEGUN = ["--env", "dark-room", "--env-options", "size=5", "episode_length=8", "--source"]
BEGUN += ["frontier", "--num-histories", "4", "--num-episodes", "3", "--num-train-tasks", "4"]
BEGUN += ["--num-test-tasks", "2", "--shards", "2"]


@pytest.fixture
def old(tmp_path):
    """Copies of both: reading needs no permission to write, resuming does."""
    shutil.copytree(HERE, tmp_path / "old")
    return tmp_path / "old"


def test_columns_are_read_under_todays_names():
    dataset = HistoryDataset(HERE / "whole")
    assert dataset.info.schema_version == 1
    assert dataset.info.policies == ["policy"]
    steps = dataset.read(0, 0, 5)
    assert steps["observation"].tolist() == [[1, 1], [1, 0], [0, 0], [0, 0], [0, 0]]
    assert steps["action"].tolist() == [1, 4, 4, 0, 0]
    assert steps["policy"].shape == (5, 5)
    assert dataset.episode_bounds(0).tolist() == [0, 12, 24, 30, 38, 44, 48]
    np.testing.assert_allclose(dataset.returns().mean, [4 / 3, 1.5, 11 / 6, 11 / 6])
    assert verify_dataset(HERE / "whole").wrong == []


def test_a_flipped_bit_is_found(old):
    file = old / "whole" / "shard-00001" / "action_probs.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (line,) = verify_dataset(old / "whole").wrong
    assert line.startswith(f"{file}: damaged")


def test_a_dataset_that_was_begun_is_finished_as_it_would_have_been(old, capsys):
    begun = old / "begun"
    assert main(["collect", str(begun), *BEGUN, "--resume"]) == 0
    names = ("action_probs", "actions", "observations", "rewards", "terminations", "truncations")
    meta = json.loads((begun / "shard-00001" / "meta.json").read_text())
    assert meta["schema_version"] == 1
    assert tuple(sorted(meta["digests"])) == names
    assert len(meta["seeds"]) == 2
    # The files of an uninterrupted collection by the last version that wrote schema 1.
    expected = ("e6994f0f", "e0736c11", "e0c65e99", "e901848e", "05314647", "52b87a73")
    for name, digest in zip(names, expected, strict=True):
        content = (begun / "shard-00001" / f"{name}.npy").read_bytes()
        assert hashlib.sha256(content).hexdigest()[:8] == digest
    assert HistoryDataset(begun).complete


def test_overwriting_deletes_its_files_too(old, capsys):
    assert main(["collect", str(old / "begun"), *BEGUN, "--overwrite"]) == 0
    assert not list((old / "begun").rglob("actions.npy"))
    assert HistoryDataset(old / "begun").info.schema_version == 2


def test_it_is_inspected_trained_on_and_rolled_out(old, capsys):
    whole, run = old / "whole", old / "run"
    assert main(["inspect", str(whole), "--tokens", "--verify"]) == 0
    train = ["train", str(whole), "--out", str(run), "--width", "16", "--num-layers", "1"]
    train += ["--context", "12", "--updates", "3", "--batch-size", "2"]
    assert main(train) == 0
    assert main([*train, "--resume"]) == 0
    assert main(["rollout", str(run), "--episodes", "2", "--tasks", "1"]) == 0
    assert "dark-key-to-door" in capsys.readouterr().out
