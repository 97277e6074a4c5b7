import numpy as np
import pytest

from fastad.base.errors import UserError
from fastad.histories.bounds import find_bounds, load_bounds
from fastad.histories.reader import HistoryDataset


@pytest.mark.parametrize(
    ("ended", "bounds"),
    [
        ([0, 0, 1, 0, 1], [0, 3, 5]),
        ([0, 0, 1, 0, 0], [0, 3, 5]),  # the last one is cut short
        ([0, 0, 0], [0, 3]),
        ([1], [0, 1]),
    ],
)
def test_episodes_begin_behind_the_last_step_of_others(ended, bounds):
    assert find_bounds(np.array(ended, bool)).tolist() == bounds


def test_complete_shards_store_bounds_and_others_are_scanned(tmp_path, make_dataset):
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    make_dataset(whole, episode_lengths=[3, 1, 5])
    make_dataset(begun, episode_lengths=[3, 1, 5], committed=[12, 10])
    assert np.load(whole / "shard-00001" / "bounds.npy").tolist() == 3 * [0, 3, 4, 9, 12]
    assert not (begun / "shard-00001" / "bounds.npy").exists()
    for path, last in ((whole, [0, 3, 4, 9, 12]), (begun, [0, 3, 4, 9, 10])):
        dataset = HistoryDataset(path)
        assert dataset.episode_bounds(0).tolist() == [0, 3, 4, 9, 12]
        assert dataset.episode_bounds(5).tolist() == last


def test_stored_bounds_need_no_scan(tmp_path, make_dataset, monkeypatch):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5])
    dataset = HistoryDataset(tmp_path)
    monkeypatch.setattr(dataset, "read", None)
    assert [dataset.episode_bounds(h).tolist() for h in range(6)] == 6 * [[0, 3, 4, 9, 12]]


def test_where_all_episodes_are_as_long_nothing_is_stored(tmp_path, make_dataset):
    make_dataset(tmp_path)
    assert not list(tmp_path.rglob("bounds.npy"))
    assert HistoryDataset(tmp_path).episode_bounds(1).tolist() == [0, 4, 8, 12]


@pytest.mark.parametrize(
    "stored",
    [
        [0, 3, 12, 0, 12],  # of two histories
        [0, 3, 12, 0, 12, 0, 11],  # the last ends early
        [0, 3, 3, 12, 0, 12, 0, 12],
        [0, 5, 3, 12, 0, 12, 0, 12],
        [1, 12, 0, 12, 0, 12],
        [],
        [[0, 12, 0, 12, 0, 12]],
        [0.0, 12.0, 0.0, 12.0, 0.0, 12.0],
    ],
)
def test_damaged_bounds_are_refused(tmp_path, stored):
    file = tmp_path / "bounds.npy"
    np.save(file, np.array(stored) if stored else np.zeros(0, np.int64))
    with pytest.raises(UserError, match=r"bounds.npy: .*; mend it"):
        load_bounds(file, [12] * 3, fix="mend it")


def test_missing_bounds_are_named(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5])
    (tmp_path / "shard-00001" / "bounds.npy").unlink()
    with pytest.raises(UserError, match=r"shard-00001/bounds.npy: missing; delete"):
        HistoryDataset(tmp_path)
