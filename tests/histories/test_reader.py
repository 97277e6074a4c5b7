import json

import numpy as np
import pytest
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.histories.columns import columns
from fastad.histories.meta import shard_range
from fastad.histories.reader import HistoryDataset, load_description
from fastad.histories.writer import create_dataset


def edit_json(file, **changes):
    """As an older fastad would have written it: without a digest."""
    values = json.loads(file.read_text())
    del values["digest"]
    file.write_text(json.dumps(values | changes))


def edit_column(path, name, index, value, shard=0):
    column = np.load(path / f"shard-{shard:05d}" / f"{name}.npy", mmap_mode="r+")
    column[index] = value
    column.flush()


def test_everything_is_there(tmp_path, make_dataset):
    info = make_dataset(tmp_path)
    dataset = HistoryDataset(tmp_path)
    assert dataset.info == info
    assert dataset.complete
    assert (dataset.num_histories, dataset.num_steps) == (6, 12)
    assert dataset.task_ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.train_histories.tolist() == [0, 1, 2, 3]
    assert dataset.train_tasks.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert dataset.test_tasks.tolist() == [[8, 9], [10, 11]]


def test_reads_are_read_only_slices_of_one_history(tmp_path, make_dataset):
    make_dataset(tmp_path)
    steps = HistoryDataset(tmp_path).read(4, 3, 6)
    assert steps["reward"].tolist() == [4003, 4004, 4005]
    assert steps["observation"].tolist() == [[4, 3], [4, 4], [4, 5]]
    assert steps["truncated"].tolist() == [True, False, False]
    with pytest.raises(ValueError, match="read-only"):
        steps["reward"][0] = 1


@pytest.mark.parametrize("arguments", [(6, 0, 1), (-1, 0, 1), (0, 0, 13), (0, 5, 4), (0, -1, 2)])
def test_reads_outside_the_dataset_are_refused(tmp_path, make_dataset, arguments):
    make_dataset(tmp_path)
    with pytest.raises(IndexError):
        HistoryDataset(tmp_path).read(*arguments)


@pytest.mark.parametrize("offsets", [[0, 1, 2, 3], [0, 1, 5, 6]])
def test_gathered_steps_are_those_read_one_history_at_a_time(tmp_path, make_dataset, offsets):
    make_dataset(tmp_path)
    dataset = HistoryDataset(tmp_path)
    histories, first = np.array([5, 0, 3, 3, 1]), np.array([5, 0, 2, 1, 4])
    steps = first[:, None] + np.array(offsets)
    into = {
        "observation": np.zeros((5, 4, 2), np.int64),
        "reward": np.zeros((5, 4), np.float32),
        "policy": np.zeros((5, 4, 5), np.float16),
    }
    dataset.gather(histories, steps, into)
    for row, history in enumerate(histories):
        whole = dataset.read(history, 0, 12)
        for name, values in into.items():
            assert np.array_equal(values[row], whole[name][steps[row]])


@pytest.mark.parametrize(("history", "first"), [(6, 0), (-1, 0), (0, -1), (0, 10), (4, 5)])
def test_gathering_outside_the_dataset_is_refused(tmp_path, make_dataset, history, first):
    make_dataset(tmp_path, committed=[12, 7])
    steps = first + np.arange(3)[None]
    with pytest.raises(IndexError):
        HistoryDataset(tmp_path).gather(
            np.array([history]), steps, {"reward": np.empty((1, 3), np.float32)}
        )


def test_an_unfinished_dataset_shows_its_committed_steps(tmp_path, make_dataset):
    make_dataset(tmp_path, num_shards=3, committed=[0, 12, 7])
    dataset = HistoryDataset(tmp_path)
    assert not dataset.complete
    assert dataset.history_ids.tolist() == [2, 3, 4, 5]
    assert dataset.lengths.tolist() == [12, 12, 7, 7]
    assert (dataset.num_steps, dataset.num_shards_complete) == (7, 1)
    assert dataset.read(2, 6, 7)["reward"].tolist() == [4006]
    with pytest.raises(IndexError):
        dataset.read(2, 6, 8)


def test_episodes_of_fixed_length_are_arithmetic(tmp_path, make_dataset):
    make_dataset(tmp_path, committed=[12, 10])
    dataset = HistoryDataset(tmp_path)
    assert dataset.episode_bounds(0).tolist() == [0, 4, 8, 12]
    assert dataset.episode_bounds(5).tolist() == [0, 4, 8, 10]
    assert [dataset.num_episodes(h) for h in (0, 5)] == [3, 2]


def test_episodes_of_variable_length_are_found(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5], num_steps=12, committed=[12, 9])
    dataset = HistoryDataset(tmp_path)
    assert dataset.episode_bounds(0).tolist() == [0, 3, 4, 9, 12]
    assert dataset.episode_bounds(5).tolist() == [0, 3, 4, 9]
    assert [dataset.num_episodes(h) for h in (0, 5)] == [3, 3]


def test_returns_are_means_over_histories(tmp_path, make_dataset):
    make_dataset(tmp_path, committed=[12, 10])
    dataset = HistoryDataset(tmp_path)
    # Rewards are 1000 h + t: an episode from step 4 e sums to 4000 h + 16 e + 6; mean h is 2.5.
    curve = dataset.returns()
    assert curve.mean.tolist() == [10_006, 10_022]
    assert curve.num_histories == 6
    assert dataset.returns([0]).mean.tolist() == [6, 22, 38]
    # Two of six, evenly spaced: the first and the last.
    assert dataset.returns(max_histories=2).mean.tolist() == [10_006, 10_022]


def test_returns_of_variable_episodes_stop_where_the_shortest_history_does(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5, 3], committed=[12, 8])
    curve = HistoryDataset(tmp_path).returns()
    # Means over h = 0..5 of 1000 h are 2500: 3 * 2500 + (0 + 1 + 2), then 2500 + 3.
    assert curve.mean.tolist() == [7503, 2503]


def test_every_pull_of_a_bandit_is_an_episode(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_length=1)
    dataset = HistoryDataset(tmp_path)
    assert dataset.num_episodes(0) == 12
    assert dataset.returns([1]).mean.tolist() == [1000.0 + t for t in range(12)]


def test_a_missing_folder_says_what_makes_one(tmp_path):
    with pytest.raises(UserError, match=r"does not exist; make one with: fastad collect .*absent"):
        HistoryDataset(tmp_path / "absent")


def test_an_empty_folder_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match=r"holds no dataset.json"):
        HistoryDataset(tmp_path)


def test_a_dataset_without_steps_says_so(tmp_path, make_info):
    create_dataset(tmp_path, make_info(), np.arange(12).reshape(6, 2))
    with pytest.raises(UserError, match=r"no step is committed yet; run `fastad collect` again"):
        HistoryDataset(tmp_path)


@pytest.mark.parametrize("file", ["dataset.json", "shard-00001/meta.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_corrupt_json_names_the_file(tmp_path, make_dataset, file, content):
    make_dataset(tmp_path)
    (tmp_path / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=file):
        HistoryDataset(tmp_path)


@pytest.mark.parametrize("file", ["dataset.json", "shard-00001/meta.json"])
def test_a_newer_version_is_refused(tmp_path, make_dataset, file):
    make_dataset(tmp_path)
    edit_json(tmp_path / file, schema_version=3)
    with pytest.raises(UserError, match=rf"{file}: schema_version=3 is newer"):
        HistoryDataset(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_ids": [0, 1, 6]}, "field 'task_ids' holds 6, but tasks are 0 to 5"),
        ({"task_ids": [0, 1]}, "field 'task_ids' has 2 entries"),
        ({"learner_ids": [0]}, "field 'learner_ids' has 1 entries"),
        ({"committed_steps": 13}, "field 'committed_steps' is 13"),
        ({"committed_steps": 1.5}, "field 'committed_steps' is 1.5"),
    ],
)
def test_a_wrong_meta_names_the_field(tmp_path, make_dataset, changes, message):
    make_dataset(tmp_path)
    edit_json(tmp_path / "shard-00001" / "meta.json", **changes)
    with pytest.raises(UserError, match=rf"shard-00001/meta.json: {message}"):
        HistoryDataset(tmp_path)


def test_a_missing_column_is_named_with_the_remedy(tmp_path, make_dataset):
    make_dataset(tmp_path)
    (tmp_path / "shard-00001" / "action.npy").unlink()
    with pytest.raises(UserError, match=r"action.npy: missing; delete .*shard-00001 and run"):
        HistoryDataset(tmp_path)


def test_a_truncated_column_is_named_with_its_size(tmp_path, make_dataset):
    make_dataset(tmp_path)
    file = tmp_path / "shard-00000" / "reward.npy"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(size - 1)
    with pytest.raises(UserError, match=rf"reward.npy: truncated to {size - 1} of {size} bytes"):
        HistoryDataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x93NUM", b"not an array at all", b"\x93NUMPY\x01\x00"])
def test_a_column_that_is_no_array_is_named(tmp_path, make_dataset, content):
    make_dataset(tmp_path)
    (tmp_path / "shard-00000" / "reward.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"reward.npy: not a readable .npy file"):
        HistoryDataset(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 12)), "dtype is float64, not float32"),
        (np.zeros((3, 11), np.float32), r"shape is \(3, 11\), not \(3, 12\)"),
        (np.zeros((12, 3), np.float32).T, "Fortran order"),
        (np.array([[None] * 12] * 3), "dtype is object"),
    ],
)
def test_a_column_of_another_kind_is_refused(tmp_path, make_dataset, array, message):
    make_dataset(tmp_path)
    np.save(tmp_path / "shard-00000" / "reward.npy", array)
    with pytest.raises(UserError, match=rf"reward.npy: .*{message}"):
        HistoryDataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("action", (1, 7), 5, r"action\[1, 7\] is 5; actions are 0 to 4"),
        ("reward", (2, 11), np.nan, r"reward\[2, 11\] is nan; rewards must be finite"),
        ("observation", (0, 3), [9, 0], r"observation\[0, 3\] is \[9, 0\]"),
        ("policy", (0, 0), 0.3, r"policy\[0, 0\] is .* must sum to 1"),
        ("policy", (0, 0), [1.5, -0.5, 0, 0, 0], "must not be negative"),
        ("policy", (0, 0), np.nan, "must sum to 1"),
        ("truncated", (1, 3), False, r"truncated\[1, 3\] .* episode_length=4"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_place(
    tmp_path, make_dataset, name, index, value, message
):
    make_dataset(tmp_path)
    edit_column(tmp_path, name, index, value)
    with pytest.raises(UserError, match=rf"{name}.npy: .*{message}"):
        HistoryDataset(tmp_path)


def test_values_behind_the_committed_steps_do_not_matter(tmp_path, make_dataset):
    make_dataset(tmp_path, committed=[8, 8])
    edit_column(tmp_path, "reward", (0, 9), np.nan)
    assert HistoryDataset(tmp_path).num_steps == 8


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (np.zeros((5, 2)), r"shape \(5, 2\)"),
        (np.zeros(6), r"shape \(6,\)"),
        (np.array([[None]] * 6), "not a readable .npy file"),
        (np.zeros((6, 2), ">i4"), "not a readable .npy file"),
    ],
)
def test_wrong_tasks_are_refused(tmp_path, make_dataset, tasks, message):
    make_dataset(tmp_path)
    np.save(tmp_path / "tasks.npy", tasks)
    with pytest.raises(UserError, match=rf"tasks.npy: {message}"):
        HistoryDataset(tmp_path)


def test_opening_fifty_gigabytes_reads_no_more_than_sixteen_megabytes_of_a_column(
    tmp_path, make_info, monkeypatch
):
    info = make_info(
        observation_space=spaces.Box(0, 255, (72, 96, 3), np.uint8),
        num_histories=500,
        num_steps=5000,
        num_shards=20,
        fixed_length=False,
        policies=[],
    )
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    for index in range(info.num_shards):
        histories = shard_range(info, index)
        shard = tmp_path / f"shard-{index:05d}"
        shard.mkdir()
        meta = {"schema_version": 2, "committed_steps": 5000, "attempt": 1}
        meta |= {"task_ids": [0] * len(histories), "learner_ids": list(histories)}
        (shard / "meta.json").write_text(json.dumps(meta))
        for name, column in columns(info).items():
            shape = (len(histories), 5000, *column.shape)
            np.lib.format.open_memmap(
                shard / f"{name}.npy", mode="w+", dtype=column.dtype, shape=shape
            )
        np.save(shard / "bounds.npy", np.tile([0, 5000], len(histories)))
    read, touched = HistoryDataset.read, []
    monkeypatch.setattr(
        HistoryDataset,
        "read",
        lambda self, history, start, stop: (
            touched.append(stop - start) or read(self, history, start, stop)
        ),
    )
    dataset = HistoryDataset(tmp_path)
    assert 0 < sum(touched) * 72 * 96 * 3 <= 2**24
    total = sum((f.stat().st_size for f in tmp_path.rglob("*.npy")), start=0)
    assert total > 50e9
    assert dataset.read(499, 4999, 5000)["observation"].shape == (1, 72, 96, 3)


def test_a_description_needs_no_histories(tmp_path, make_info):
    tasks = np.arange(12).reshape(6, 2)
    create_dataset(tmp_path, make_info(), tasks)
    info, loaded = load_description(tmp_path)
    assert info == make_info()
    np.testing.assert_array_equal(loaded, tasks)
    (tmp_path / "tasks.npy").unlink()
    with pytest.raises(UserError, match=r"tasks.npy: missing"):
        load_description(tmp_path)
