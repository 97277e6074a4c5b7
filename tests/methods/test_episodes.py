"""Which episodes windows show: the end of a history, random ones, the cut."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.base.errors import UserError
from fastad.histories.reader import HistoryDataset
from fastad.methods.windows import WindowSampler

LENGTHS = [2, 4, 1, 3, 2, 4, 1, 3, 2, 4]  # of the episodes of a history, 26 steps in all


def sampler(path, **changes):
    arguments = {"batch_size": 256, "seed": 0} | changes
    return WindowSampler(HistoryDataset(path), **arguments)


def shown(windows, num_batches=4):
    """The distinct windows, as the steps of history 1 that they show."""
    steps = [windows.batch(i).steps.observation[:, :, 1] for i in range(num_batches)]
    return {tuple(row.tolist()) for batch in steps for row in batch}


@pytest.fixture
def ten_episodes(tmp_path, make_dataset):
    """One train history of ten episodes of two steps; step t is observed as t % 9."""
    make_dataset(
        tmp_path, num_histories=2, num_shards=1, task_ids=[5, 2], num_steps=20, episode_length=2,
        num_train=4,
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def varied(tmp_path, make_dataset):
    make_dataset(
        tmp_path, num_histories=2, num_shards=1, task_ids=[5, 2], num_steps=26,
        episode_lengths=LENGTHS,
    )  # fmt: skip
    return tmp_path


def steps_of(episodes, num_steps, lengths):
    bounds = np.cumsum([0, *lengths])
    steps = [s % 9 for e in episodes for s in range(bounds[e], bounds[e + 1])]
    return tuple(steps[:num_steps])


def test_the_end_is_the_last_window_that_fits(varied):
    end = {"start": "end", "num_steps": 6}
    assert shown(sampler(varied, **end)) == {steps_of([8, 9], 6, LENGTHS)}


def test_the_end_of_equally_long_episodes(ten_episodes):
    end = {"start": "end", "num_steps": 6}
    assert shown(sampler(ten_episodes, **end)) == {steps_of([7, 8, 9], 6, [2] * 10)}
    every_second = sampler(ten_episodes, every_kth_episode=2, **end)
    assert shown(every_second) == {steps_of([5, 7, 9], 6, [2] * 10)}


def test_random_episodes_are_in_order_and_none_is_shown_twice(ten_episodes):
    windows = shown(sampler(ten_episodes, num_steps=6, subsample="random"), num_batches=8)
    assert windows == {steps_of(e, 6, [2] * 10) for e in combinations(range(10), 3)}


def test_random_episodes_are_equally_likely(ten_episodes):
    windows = sampler(ten_episodes, num_steps=6, subsample="random", batch_size=6000)
    first_steps = windows.batch(0).steps.observation[:, ::2, 1]
    counts = np.bincount(first_steps.flatten().numpy(), minlength=9)
    assert counts.sum() == 18_000
    # Episode 9 begins at step 18, seen as 0 again: twice as often as the others.
    assert counts[[2, 4, 6, 8]] == pytest.approx(1800, rel=0.1)
    assert counts[0] == pytest.approx(3600, rel=0.1)


def test_the_cut_shows_any_number_of_early_episodes_and_then_late_ones(ten_episodes):
    windows = shown(
        sampler(ten_episodes, num_steps=6, subsample="cut", cut=(0.25, 0.6)), num_batches=8
    )
    expected = {
        steps_of([*early, *late], 6, [2] * 10)
        for num_early in range(3)
        for early in combinations(range(3), num_early)  # 0.25 of ten, rounded up
        for late in combinations(range(6, 10), 3 - num_early)
    }
    assert windows == expected


def test_the_number_of_early_episodes_is_uniform(ten_episodes):
    windows = sampler(ten_episodes, num_steps=6, subsample="cut", cut=(0.3, 0.6), batch_size=6000)
    # Episodes 0 to 2 are seen to begin at 0, 2, 4; 6 to 9 at 3, 5, 7 and, wrapped, 0.
    late = windows.batch(0).steps.observation[:, ::2, 1].numpy()
    num_odd = np.isin(late, [3, 5, 7]).sum(axis=1)
    # Early ones are even; the ninth episode looks like the first, but always comes last.
    num_late = num_odd + ((late[:, -1] == 0) & (num_odd < 3))
    assert np.bincount(num_late, minlength=4)[1:] == pytest.approx(2000, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=4, max_size=9),
    subsample=st.sampled_from(["cut", "random"]),
    num_steps=st.integers(1, 6),
)
def test_episodes_of_any_length_are_whole_in_order_and_fill_the_window(
    tmp_path_factory, make_dataset, lengths, subsample, num_steps
):
    path = tmp_path_factory.mktemp("windows")
    lengths = [4, *lengths]
    make_dataset(
        path, num_histories=2, num_shards=1, task_ids=[5, 2], num_steps=sum(lengths),
        episode_lengths=lengths,
    )  # fmt: skip
    late = sum(lengths[len(lengths) // 2 :])
    if subsample == "cut" and late < num_steps:
        with pytest.raises(UserError, match=f"of which subsample=cut leaves {late}"):
            sampler(path, num_steps=num_steps, subsample="cut")
        return
    windows = sampler(path, num_steps=num_steps, subsample=subsample)
    batch = windows.batch(0)
    bounds = np.cumsum([0, *lengths])
    rewards = batch.steps.previous_reward[:, 1:].numpy().astype(int) % 1000  # the steps shown
    for row, starts in zip(rewards, batch.steps.episode_start[:, :-1].numpy(), strict=True):
        assert starts[:1].all()
        assert (np.diff(row) > 0).all()  # in order, none twice
        assert set(row[starts]) <= set(bounds)  # whole from their first step
        follows = np.diff(row) == 1
        assert follows[~starts[1:]].all()  # and without a gap


def test_windows_depend_on_seed_and_step_alone_and_ranks_share_them(ten_episodes):
    arguments = {"num_steps": 6, "subsample": "cut"}
    whole = sampler(ten_episodes, batch_size=12, **arguments)
    parts = [
        sampler(ten_episodes, batch_size=4, rank=rank, world_size=3, **arguments).batch(5)
        for rank in range(3)
    ]
    expected = whole.batch(5).steps.observation
    assert np.array_equal(np.concatenate([p.steps.observation for p in parts]), expected)
    assert np.array_equal(
        sampler(ten_episodes, batch_size=12, **arguments).batch(5)[0][0], expected
    )
    assert not np.array_equal(whole.batch(6).steps.observation, expected)


def test_what_does_not_go_together_is_refused(ten_episodes):
    with pytest.raises(UserError, match="subsample=cut draws its own episodes, and start=anywhere"):
        sampler(ten_episodes, num_steps=6, subsample="cut", start="anywhere")
    with pytest.raises(UserError, match="every_kth_episode=2 are of subsample=every-kth"):
        sampler(ten_episodes, num_steps=6, subsample="random", every_kth_episode=2)
    with pytest.raises(UserError, match=r"'sometimes'.*random"):
        sampler(ten_episodes, num_steps=6, subsample="sometimes")
    with pytest.raises(UserError, match="of which subsample=cut leaves 8; use a window of 8"):
        sampler(ten_episodes, num_steps=10, subsample="cut", cut=(0.2, 0.6))
