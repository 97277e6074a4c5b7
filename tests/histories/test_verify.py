"""`fastad inspect --verify`: every byte of a dataset is vouched for, and what is not is named."""

import json
import os
import random
import resource
import shutil

import numpy as np
import pytest
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.cli import main
from fastad.histories.reader import HistoryDataset
from fastad.histories.verify import check_columns, column_bytes, verify_dataset
from fastad.histories.writer import ShardWriter, create_dataset


def test_a_complete_dataset_is_vouched_for(tmp_path, make_dataset, capsys):
    make_dataset(tmp_path)
    assert verify_dataset(tmp_path) == ([], [])
    assert main(["inspect", str(tmp_path), "--verify"]) == 0
    assert f"{tmp_path}: every file is what was written\n" in capsys.readouterr().out


def test_every_file_notices_a_flipped_bit(tmp_path, make_dataset):
    make_dataset(tmp_path)
    rng = random.Random(0)
    files = [f for f in sorted(tmp_path.rglob("*")) if f.is_file() and f.stat().st_size]
    assert {f.name for f in files} >= {"dataset.json", "tasks.npy", "meta.json", "reward.npy"}
    for file in files:
        whole = file.read_bytes()
        for _ in range(12):
            content = bytearray(whole)
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            wrong = verify_dataset(tmp_path).wrong
            assert wrong, file
            assert file.name in wrong[0]
        file.write_bytes(whole)
    assert verify_dataset(tmp_path) == ([], [])


def test_a_damaged_column_is_exit_code_one_and_named(tmp_path, make_dataset, capsys):
    make_dataset(tmp_path)
    file = tmp_path / "shard-00000" / "reward.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["inspect", str(tmp_path), "--verify"]) == 1
    shown = capsys.readouterr()
    assert f"{file}: damaged; delete {file.parent} and run" in shown.out
    assert "1 found that are not what was written" in shown.err


def test_a_shard_does_not_vanish_with_its_meta(tmp_path, make_dataset):
    make_dataset(tmp_path)
    (tmp_path / "shard-00001" / "meta.json").unlink()
    with pytest.raises(UserError, match=r"shard-00001/meta.json: missing, but columns are there"):
        HistoryDataset(tmp_path)
    assert "shard-00001" in verify_dataset(tmp_path).wrong[0]


def test_a_missing_shard_is_named_when_training_is_asked_for(tmp_path, make_dataset, capsys):
    make_dataset(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "shard-00001")
    assert main(["train", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 2
    assert "shard-00001: 0 of" in capsys.readouterr().err
    assert "shard-00001: 0 of" in verify_dataset(tmp_path / "data").unknown[0]


def test_nothing_is_learnt_from_columns_that_are_not_what_was_written(
    tmp_path, make_dataset, capsys
):
    make_dataset(tmp_path / "data")
    file = tmp_path / "data" / "shard-00001" / "reward.npy"
    content = bytearray(file.read_bytes())
    content[-4] ^= 1  # still a reward
    file.write_bytes(content)
    HistoryDataset(tmp_path / "data")
    assert main(["train", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 2
    assert f"{file}: damaged; delete {file.parent} and run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_of_a_large_dataset_as_many_shards_are_read_as_take_seconds(tmp_path, make_dataset, caplog):
    info = make_dataset(tmp_path, num_shards=6)
    share = column_bytes(tmp_path, info) // 3
    with caplog.at_level("INFO", logger="fastad"):
        check_columns(tmp_path, info, max_bytes=share)
    assert "2 of 6 shards were held to their digests" in caplog.text
    (tmp_path / "shard-00003" / "reward.npy").write_bytes(b"not looked at")
    check_columns(tmp_path, info, max_bytes=share)
    (tmp_path / "shard-00005" / "reward.npy").write_bytes(b"looked at")
    with pytest.raises(UserError, match=r"shard-00005/reward.npy: damaged"):
        check_columns(tmp_path, info, max_bytes=share)


def test_two_whole_shards_cannot_change_places(tmp_path, make_dataset):
    make_dataset(tmp_path)
    first, second = tmp_path / "shard-00000", tmp_path / "shard-00001"
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(UserError, match=r"shard-00000/meta.json: field 'index' is 1, that of anot"):
        HistoryDataset(tmp_path)
    assert len(verify_dataset(tmp_path).wrong) == 2


def test_older_datasets_are_read_and_said_to_have_no_digests(tmp_path, make_dataset):
    make_dataset(tmp_path)
    for file in (tmp_path / "dataset.json", *tmp_path.glob("shard-*/meta.json")):
        values = json.loads(file.read_text())
        for later in ("digest", "digests", "tasks_digest"):
            values.pop(later, None)
        file.write_text(json.dumps(values))
    (tmp_path / ".fastad-dataset").unlink()
    assert HistoryDataset(tmp_path).complete
    verdict = verify_dataset(tmp_path)
    assert verdict.wrong == []
    assert [line.rpartition(": ")[2] for line in verdict.unknown] == [
        "written without a digest", "written without a digest",
        "missing, as in datasets of older versions",
        *["written without digests"] * len(list(tmp_path.glob("shard-*"))),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", ["dataset.json", "tasks.npy", "shard-00000/meta.json",
                                  "shard-00000/reward.npy"])  # fmt: skip
def test_links_and_pipes_are_refused_by_name_and_not_waited_for(tmp_path, make_dataset, kind, name):
    make_dataset(tmp_path)
    file = tmp_path / name
    moved = file.rename(tmp_path / "elsewhere")
    file.symlink_to(moved) if kind == "link" else os.mkfifo(file)
    with pytest.raises(UserError, match=f"{file.name}: is a .*{kind}, not a regular file"):
        HistoryDataset(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_shards", 10**9, "num_shards=1000000000 exceeds 100,000"),
        ("num_steps", 10**18, "num_steps=1000000000000000000 exceeds"),
        ("observation_space", {"type": "Box"}, "space {'type': 'Box'} is malformed"),
        ("observation_space", [[]] * 3, "'observation_space' is [[], [], []]"),
        ("source", 7, "'source' is 7"),
    ],
)
def test_absurd_descriptions_are_refused_before_anything_is_allocated(
    tmp_path, make_dataset, field, value, message, capsys
):
    make_dataset(tmp_path)
    file = tmp_path / "dataset.json"
    values = json.loads(file.read_text())
    values.pop("digest", None)
    file.write_text(json.dumps(values | {field: value}))
    assert main(["inspect", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_escape_sequences_in_names_never_reach_the_terminal(tmp_path, make_dataset, capsys):
    make_dataset(tmp_path)
    file = tmp_path / "dataset.json"
    values = json.loads(file.read_text())
    del values["digest"]
    file.write_text(json.dumps(values | {"env": "\x1b[31mred", "source": "\x1b]0;title\x07"}))
    main(["inspect", str(tmp_path)])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err


def test_headers_that_promise_more_than_the_file_holds_allocate_nothing(tmp_path, make_dataset):
    make_dataset(tmp_path)
    file = tmp_path / "tasks.npy"
    header = "{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776, 2), }"
    encoded = (header + " " * (117 - len(header)) + "\n").encode()
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded)
    with pytest.raises(UserError, match=r"tasks.npy: truncated to 128 of 17592186044544 bytes"):
        HistoryDataset(tmp_path)


def test_thousands_of_shards_open_with_256_descriptors(tmp_path, make_info, make_block):
    info = make_info(num_histories=600, num_shards=600, num_steps=4)
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    block = make_block(info, range(1), range(4), None)
    for index in range(600):
        with ShardWriter(tmp_path, info, index, task_ids=[0], learner_ids=[index]) as writer:
            writer.append(block)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        dataset = HistoryDataset(tmp_path)
        assert dataset.read(599, 0, 4)["reward"].shape == (4,)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_box_observations_outside_their_space_are_refused(tmp_path, make_info, make_block):
    info = make_info(observation_space=spaces.Box(-1.0, 1.0, (2,)))
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    block = make_block(info, range(3), range(12), None)
    for wrong in (1e300, 1.5, np.nan):
        observation = np.full((3, 12, 2), wrong)
        with ShardWriter(tmp_path, info, 0, task_ids=[0, 1, 2], learner_ids=[7, 8, 9]) as writer:
            with pytest.raises(UserError, match="observation of a block"):
                writer.append(block._replace(observation=observation))
            assert writer.committed_steps == 0


def test_a_column_that_the_disk_cannot_give_back_is_named(tmp_path, make_dataset, monkeypatch):
    make_dataset(tmp_path)
    real = os.open

    def fail(file, *arguments, **options):
        if str(file).endswith("shard-00000/reward.npy"):
            raise OSError(5, "Input/output error", str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr("os.open", fail)
    (line,) = verify_dataset(tmp_path).wrong
    assert "shard-00000/reward.npy: Input/output error" in line
