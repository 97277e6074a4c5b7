"""Rows that are packed with contexts: histories of different lengths, nothing empty."""

import numpy as np
import pytest
import torch

from fastad.base.errors import UserError
from fastad.histories.reader import HistoryDataset
from fastad.methods.ad import AlgorithmDistillation
from fastad.methods.decision_transformer import DecisionTransformer
from fastad.methods.dpt import shuffled
from fastad.methods.windows import WindowSampler
from fastad.model.config import ModelConfig
from tests.methods.test_windows import assert_same, tensors

# Histories 0 to 3 are of train tasks: 0 to 2 have 12 steps, 3 has 5. See `build_block`.
LENGTHS = (12, 12, 12, 5)


@pytest.fixture
def dataset(tmp_path, make_dataset):
    make_dataset(tmp_path, committed=[12, 5])
    return HistoryDataset(tmp_path)


@pytest.fixture
def ragged(tmp_path, make_dataset):
    """Episodes of 1, 4, 2, 3 and 2 steps."""
    make_dataset(tmp_path, committed=[12, 5], episode_lengths=[1, 4, 2, 3, 2])
    return HistoryDataset(tmp_path)


def sampler(dataset, **changes):
    arguments = {"num_steps": 15, "batch_size": 8, "seed": 0, "pack": True} | changes
    return WindowSampler(dataset, **arguments)


def contexts_of(batch):
    """Row, history and steps of every context, read off what was observed and done."""
    seen, action = batch.steps.observation, batch.targets["action"]
    for row, begins in enumerate(batch.steps.context_start):
        first = begins.nonzero().flatten().tolist()
        for start, stop in zip(first, [*first[1:], len(begins)], strict=True):
            history = seen[row, start, 0].item()
            assert (seen[row, start:stop, 0] == history).all()
            steps = (action[row, start:stop] - history) % 5
            yield row, history, steps.tolist(), slice(start, stop)


def test_a_row_holds_whole_histories_and_what_fits_of_the_last(dataset):
    batch = sampler(dataset).batch(0, ["policy"])
    steps, found = batch.steps, set()
    assert steps.previous_action.shape == (8, 15)
    for row, history, ages, place in contexts_of(batch):
        length = place.stop - place.start
        assert length == min(LENGTHS[history], 15 - place.start)
        assert ages == [t % 5 for t in range(length)]
        assert steps.observation[row, place, 1].tolist() == [t % 9 for t in range(length)]
        done = [5, *((history + t) % 5 for t in range(length - 1))]
        assert steps.previous_action[row, place].tolist() == done
        rewards = [0, *(1000 * history + t for t in range(length - 1))]
        assert steps.previous_reward[row, place].tolist() == rewards
        assert steps.episode_step[row, place].tolist() == [t % 4 for t in range(length)]
        assert steps.episode_start[row, place].tolist() == [t % 4 == 0 for t in range(length)]
        assert batch.targets["policy"][row, place].argmax(-1).tolist() == [
            (history + t) % 5 for t in range(length)
        ]
        found.add((history, length))
    assert found >= {(3, 5), (0, 12), (0, 3)}


def test_without_pack_the_short_history_is_refused(dataset):
    with pytest.raises(UserError, match=r"window=12 is longer than history 3 .*, or --pack"):
        sampler(dataset, pack=False, num_steps=12)


def test_histories_are_drawn_alike_and_so_are_their_first_steps(dataset):
    begun = np.zeros(4)
    packed = sampler(dataset, num_steps=200, batch_size=40)
    for _, history, _, _ in contexts_of(packed.batch(0)):
        begun[history] += 1
    assert begun.sum() > 700
    np.testing.assert_allclose(begun / begun.sum(), 0.25, atol=0.05)


@pytest.mark.parametrize("start", ["history", "anywhere", "end"])
def test_where_a_window_fits_a_row_is_that_window(tmp_path, make_dataset, start):
    make_dataset(tmp_path, episode_lengths=[1, 4, 2, 3, 2])
    dataset = HistoryDataset(tmp_path)
    windows = set()
    for pack in (False, True):
        batch = sampler(dataset, num_steps=5, batch_size=200, start=start, pack=pack).batch(0)
        shown = batch.steps.observation[:, :, 1]
        windows.add(frozenset(tuple(row.tolist()) for row in shown))
        assert pack == (batch.steps.context_start is not None)
    assert len(windows) == 1


def test_every_kth_episode_of_histories_that_leave_different_lengths(ragged):
    batch = sampler(ragged, every_kth_episode=2).batch(0)
    for row, history, _, place in contexts_of(batch):
        # Episodes 0, 2 and 4 of whole histories; of the short one, there is none after the second.
        shown = [0] if history == 3 else [0, 5, 6, 10, 11]
        seen = batch.steps.observation[row, place, 1].tolist()
        assert seen == [t % 9 for t in shown][: 15 - place.start]
        ages = [0] if history == 3 else [0, 0, 1, 0, 1]
        assert batch.steps.episode_step[row, place].tolist() == ages[: 15 - place.start]


def test_ranks_and_resumed_runs_see_the_rows_of_one(dataset):
    whole = sampler(dataset, batch_size=6)
    halves = [sampler(dataset, batch_size=3, rank=rank, world_size=2) for rank in (1, 0)]
    for step in (5, 0):  # in any order, by whoever
        parts = [half.batch(step) for half in reversed(halves)]
        joined = [torch.cat(pair) for pair in zip(*map(tensors, parts), strict=True)]
        for one, other in zip(tensors(whole.batch(step)), joined, strict=True):
            assert torch.equal(one, other)
        starts = torch.cat([part.steps.context_start for part in parts])
        assert torch.equal(starts, whole.batch(step).steps.context_start)
    assert_same(whole.batch(3), sampler(dataset, batch_size=6).batch(3))
    assert not torch.equal(
        whole.batch(3).steps.observation, sampler(dataset, seed=1).batch(3).steps.observation[:6]
    )


def test_statistics_are_those_of_the_data_and_of_no_seed(dataset):
    first, other = sampler(dataset), sampler(dataset, seed=9, rank=1, world_size=2)
    assert (first.reward_mean, first.reward_std) == (other.reward_mean, other.reward_std)
    assert 0 < first.reward_mean < 3012
    assert first.observations().shape[1:] == (2,)


def test_returns_to_go_end_with_the_episode_of_their_history(dataset):
    method = DecisionTransformer(sampler(dataset), "sampled")
    batch = method.batch(0)
    for row, history, _, place in contexts_of(batch):
        t = np.arange(place.stop - place.start)
        reward = 1000.0 * history + np.arange(LENGTHS[history])
        expected = [reward[i : (i // 4 + 1) * 4].sum() for i in t]
        assert batch.steps.return_to_go[row, place].tolist() == expected
    assert method.windows.return_scale == pytest.approx(4 * 2000 + 8 + 9 + 10 + 11, rel=0.6)


def test_shuffled_transitions_stay_within_their_context(dataset):
    steps = sampler(dataset, num_steps=9, batch_size=2).batch(0).steps
    begins = torch.zeros(2, 9, dtype=torch.bool)
    begins[:, [0, 4]] = True
    order = torch.tensor([[1, 0, 2, 3, 7, 5, 4, 6, 8]]).expand(2, 9)
    mixed = shuffled(steps._replace(context_start=begins), order)
    assert torch.equal(mixed.observation, steps.observation[:, order[0]])
    # Each place has what came of the step now before it, and the first of a context what it had.
    after = torch.tensor([0, 2, 1, 3, 4, 8, 6, 5, 7])
    assert torch.equal(mixed.previous_action, steps.previous_action[:, after])
    assert torch.equal(mixed.previous_reward, steps.previous_reward[:, after])
    before = torch.tensor([0, 1, 0, 2, 4, 7, 5, 4, 6])
    assert torch.equal(mixed.previous_observation, steps.observation[:, before])


def test_subsampling_by_chance_fills_windows_itself(dataset):
    with pytest.raises(UserError, match=r"pack=True .* subsample=random"):
        sampler(dataset, subsample="random")


def test_the_loss_of_packed_rows_is_the_mean_over_the_steps_of_contexts(dataset):
    method = AlgorithmDistillation(sampler(dataset), "policy")
    torch.manual_seed(0)
    model = method.build_model(ModelConfig(context=6, width=16, num_layers=1, positions="rope"))
    batch = method.batch(0)
    loss, _ = method.loss(model(batch.steps), batch)
    alone = []
    for row, _, _, place in contexts_of(batch):
        steps = batch.steps._replace(context_start=None).part(place.start, place.stop, [row])
        part = batch._replace(
            steps=steps,
            targets={name: x[[row], place] for name, x in batch.targets.items()},
        )
        alone.append(method.loss(model(steps), part)[0] * (place.stop - place.start))
    torch.testing.assert_close(loss, torch.stack(alone).sum() / (8 * 15), rtol=1e-5, atol=0)
