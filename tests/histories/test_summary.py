"""Figures of a dataset, by the numbers that were fabricated into it."""

from fastad.histories.reader import HistoryDataset
from fastad.histories.summary import learned


def test_how_far_the_source_came_is_that_of_its_first_and_last_episode(tmp_path, make_dataset):
    make_dataset(tmp_path, env_kwargs={"size": 13, "episode_length": 4})
    source = learned(HistoryDataset(tmp_path))
    # Mean return of episode e over histories 0 to 5 is 4 * 2500 + 16 e + 6.
    assert (source.first, source.last) == (10_006, 10_038)
    # Goals (2 h, 2 h + 1) lie 11, 7, 3, 1, 5, 9 steps from the centre (6, 6): 3 leave 2 of the 4
    # rewards, 1 leaves all, and the others are out of reach.
    assert source.optimum == 1.0


def test_without_a_complete_episode_nothing_is_told(tmp_path, make_dataset):
    make_dataset(tmp_path, committed=[3, 3])
    assert learned(HistoryDataset(tmp_path)) is None
