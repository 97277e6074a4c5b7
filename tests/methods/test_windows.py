import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.histories.reader import HistoryDataset
from fastad.histories.writer import ShardWriter, create_dataset
from fastad.methods.windows import WindowSampler

# The fabricated datasets have observation (h % 9, t % 9), action (h + t) % 5 and reward
# 1000 h + t for history h at step t; histories 0 to 3 are of train tasks.


def shown_steps(sampler, num_batches=20):
    """Every distinct window, as its history and the steps of it, all but the last step."""
    windows = set()
    for step in range(num_batches):
        rewards = sampler.batch(step).steps.previous_reward[:, 1:].long()
        windows |= {tuple(row.tolist()) for row in rewards}
    return {(row[0] // 1000, tuple(r % 1000 for r in row)) for row in windows}


def tensors(batch):
    return [*batch.steps[:5], *batch.targets.values()]


def assert_same(first, second):
    for a, b in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def dataset(tmp_path, make_dataset):
    make_dataset(tmp_path)
    return HistoryDataset(tmp_path)


def sampler(dataset, **changes):
    arguments = {"num_steps": 6, "batch_size": 8, "seed": 0} | changes
    return WindowSampler(dataset, **arguments)


def test_a_window_holds_what_the_history_holds(tmp_path, make_dataset):
    make_dataset(tmp_path, num_histories=2, task_ids=[5, 3])
    batch = sampler(HistoryDataset(tmp_path), batch_size=1).batch(0, ["policy"])
    steps = batch.steps
    assert steps.observation.tolist() == [[[1, 0], [1, 1], [1, 2], [1, 3], [1, 4], [1, 5]]]
    assert batch.targets["action"].tolist() == [[1, 2, 3, 4, 0, 1]]
    assert steps.previous_action.tolist() == [[5, 1, 2, 3, 4, 0]]
    assert steps.previous_reward.tolist() == [[0, 1000, 1001, 1002, 1003, 1004]]
    assert steps.episode_start.tolist() == [[True, False, False, False, True, False]]
    assert steps.episode_step.tolist() == [[0, 1, 2, 3, 0, 1]]
    expected = torch.full((1, 6, 5), 0.1).scatter(2, batch.targets["action"][..., None], 0.6)
    policy = batch.targets["policy"]
    torch.testing.assert_close(policy, expected, atol=5e-4, rtol=0)
    torch.testing.assert_close(policy.sum(-1), torch.ones(1, 6), atol=1e-6, rtol=0)


def test_tensors_have_the_dtypes_that_the_model_reads(dataset):
    batch = sampler(dataset).batch(0, ["policy"])
    assert [field.dtype for field in batch.steps[:5]] == [
        torch.int64, torch.int64, torch.float32, torch.bool, torch.int64,
    ]  # fmt: skip
    dtypes = {name: target.dtype for name, target in batch.targets.items()}
    assert dtypes == {"action": torch.int64, "policy": torch.float32}
    assert batch.steps.observation.shape == (8, 6, 2)
    assert batch.targets["policy"].shape == (8, 6, 5)


def test_images_keep_their_dtype_and_probs_may_be_absent(tmp_path, make_info):
    space = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    info = make_info(
        observation_space=space, policies=[], num_histories=1, num_shards=1, num_steps=4
    )
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    images = np.arange(48, dtype=np.uint8).reshape(1, 4, 2, 2, 3)
    zeros, ends = np.zeros((1, 4)), np.array([[False, False, False, True]])
    with ShardWriter(tmp_path, info, 0, task_ids=[0], learner_ids=[0]) as writer:
        fields = (images, zeros.astype(int), zeros, ends & False, ends, None)
        writer.append(Transition(*fields))
    batch = sampler(HistoryDataset(tmp_path), num_steps=4, batch_size=2).batch(0)
    assert list(batch.targets) == ["action"]
    assert batch.steps.observation.dtype == torch.uint8
    assert batch.steps.observation[1].flatten().tolist() == list(range(48))


def test_batches_are_a_function_of_seed_and_step(dataset):
    arguments = {"start": "anywhere", "batch_size": 16}
    ahead, again = sampler(dataset, **arguments), sampler(dataset, **arguments)
    ahead.batch(0)
    ahead.batch(1)
    assert_same(ahead.batch(7), again.batch(7))
    others = [again.batch(8), sampler(dataset, seed=1, **arguments).batch(7)]
    for other in others:
        assert not torch.equal(other.steps.previous_reward, again.batch(7).steps.previous_reward)


def test_ranks_share_out_one_global_batch(dataset):
    whole = sampler(dataset, batch_size=12, start="anywhere").batch(3)
    ranks = [
        sampler(dataset, batch_size=4, start="anywhere", rank=rank, world_size=3).batch(3)
        for rank in range(3)
    ]
    joined = torch.cat([batch.steps.previous_reward for batch in ranks])
    assert torch.equal(joined, whole.steps.previous_reward)
    assert not torch.equal(ranks[0].steps.previous_reward, ranks[1].steps.previous_reward)


def test_windows_begin_with_the_history(dataset):
    assert shown_steps(sampler(dataset)) == {(h, (0, 1, 2, 3, 4)) for h in range(4)}


def test_windows_anywhere_begin_at_every_episode_from_which_they_fit(dataset):
    assert shown_steps(sampler(dataset, start="anywhere")) == {
        (h, tuple(range(first, first + 5))) for h in range(4) for first in (0, 4)
    }


def test_windows_anywhere_fit_into_the_committed_steps(tmp_path, make_dataset):
    make_dataset(tmp_path, committed=[9, 9])
    windows = shown_steps(sampler(HistoryDataset(tmp_path), start="anywhere"))
    assert {steps[0] for _, steps in windows} == {0}
    windows = shown_steps(sampler(HistoryDataset(tmp_path), start="anywhere", num_steps=5))
    assert {steps[0] for _, steps in windows} == {0, 4}


def test_every_second_episode_of_fixed_length(dataset):
    windows = shown_steps(sampler(dataset, num_steps=8, every_kth_episode=2))
    assert windows == {(h, (0, 1, 2, 3, 8, 9, 10)) for h in range(4)}


def test_every_second_episode_of_variable_length(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5, 3], num_histories=2, task_ids=[0, 5])
    dataset = HistoryDataset(tmp_path)
    batch = sampler(dataset, num_steps=7, every_kth_episode=2, batch_size=1).batch(0)
    # Episodes 0 (steps 0 to 2) and 2 (steps 4 to 8), cut at seven steps.
    assert batch.steps.observation[0, :, 1].tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert batch.steps.episode_start[0].tolist() == [True, False, False, True] + [False] * 3
    assert batch.steps.episode_step[0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.steps.previous_action[0].tolist() == [5, 0, 1, 2, 4, 0, 1]


def test_every_second_episode_from_anywhere(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5, 3], num_histories=2, task_ids=[0, 5])
    windows = sampler(
        HistoryDataset(tmp_path), num_steps=4, every_kth_episode=2, start="anywhere", batch_size=64
    )
    shown = windows.batch(0).steps.observation[:, :, 1]
    # Episode 3 alone has but three steps.
    assert {tuple(row.tolist()) for row in shown} == {(0, 1, 2, 4), (3, 0, 1, 2), (4, 5, 6, 7)}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    cut=st.integers(0, 3),
    is_fixed=st.booleans(),
    stride=st.integers(1, 3),
    num_steps=st.integers(2, 12),
    start=st.sampled_from(["history", "anywhere"]),
)
def test_windows_are_those_that_a_slow_search_finds(
    tmp_path_factory, make_dataset, lengths, cut, is_fixed, stride, num_steps, start
):
    if is_fixed:
        lengths = [lengths[0]] * len(lengths)
    total = max(1, sum(lengths) - cut)
    changes = {"episode_length": lengths[0]} if is_fixed else {"episode_lengths": lengths}
    path = tmp_path_factory.mktemp("windows")
    make_dataset(path, num_histories=2, num_shards=1, task_ids=[5, 2], num_steps=total, **changes)
    bounds = np.minimum(np.cumsum([0, *lengths]), total)
    episodes = [list(range(a, b)) for a, b in pairwise(bounds)]
    episodes = [episode for episode in episodes if episode]
    expected = set()
    for first in range(len(episodes) if start == "anywhere" else 1):
        steps = [step for episode in episodes[first::stride] for step in episode]
        if len(steps) >= num_steps:
            expected.add((1, tuple(steps[: num_steps - 1])))
    arguments = {"num_steps": num_steps, "every_kth_episode": stride, "start": start}
    if expected:
        windows = sampler(HistoryDataset(path), batch_size=64, **arguments)
        assert shown_steps(windows, num_batches=2) == expected
    else:
        with pytest.raises(UserError, match=f"window={num_steps} is longer"):
            sampler(HistoryDataset(path), **arguments)


def test_every_pull_of_a_bandit_starts_an_episode(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_length=1)
    batch = sampler(HistoryDataset(tmp_path)).batch(0)
    assert batch.steps.episode_start.all()
    assert not batch.steps.episode_step.any()
    assert torch.equal(batch.steps.previous_action[:, 1:], batch.targets["action"][:, :-1])


def test_histories_of_test_tasks_are_never_shown(tmp_path, make_dataset):
    make_dataset(tmp_path, task_ids=[5, 0, 4, 3, 5, 1])
    windows = shown_steps(sampler(HistoryDataset(tmp_path), start="anywhere"))
    assert {history for history, _ in windows} == {1, 3, 5}


def test_a_test_task_that_equals_a_train_task_is_refused(tmp_path, make_dataset):
    make_dataset(tmp_path)
    tasks = np.arange(12).reshape(6, 2)
    tasks[5] = tasks[1]
    np.save(tmp_path / "tasks.npy", tasks)
    file = tmp_path / "dataset.json"  # as whoever writes such a dataset would leave it
    info = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in info.items() if not k.endswith("digest")}))
    with pytest.raises(UserError, match=r"tasks.npy: test task 5, \[2, 3\], is a train task"):
        sampler(HistoryDataset(tmp_path))


def test_a_dataset_without_train_histories_is_refused(tmp_path, make_dataset):
    make_dataset(tmp_path, task_ids=[4, 4, 4, 5, 5, 5])
    with pytest.raises(UserError, match="holds no history of a train task"):
        sampler(HistoryDataset(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_steps": 13},
            r"window=13 is longer than history 0 .* use a window of 12 steps or less$",
        ),
        (
            {"num_steps": 9, "every_kth_episode": 2},
            "every_kth_episode=2 leaves 8; use a window of 8 steps or less, or a lower",
        ),
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"every_kth_episode": 0}, "every_kth_episode=0"),
        ({"seed": -1}, "seed=-1"),
        ({"rank": 2, "world_size": 2}, r"rank=2 must lie in \[0, world_size=2\)"),
        ({"start": "anywere"}, "did you mean 'anywhere'"),
    ],
)
def test_wrong_arguments_are_named(dataset, changes, message):
    with pytest.raises(UserError, match=message):
        sampler(dataset, **changes)


def test_a_window_must_fit_into_every_train_history(tmp_path, make_dataset):
    make_dataset(tmp_path, committed=[12, 5])
    with pytest.raises(UserError, match=r"longer than history 3 .*finish the dataset"):
        sampler(HistoryDataset(tmp_path))


def test_a_batch_reads_no_more_than_its_windows(tmp_path, make_dataset, monkeypatch):
    make_dataset(tmp_path, num_steps=400)
    dataset = HistoryDataset(tmp_path)
    windows = sampler(dataset, start="anywhere")
    read = []
    real = dataset.gather

    def gather(histories, steps, into):
        read.append((steps.shape, set(steps[:, -1] - steps[:, 0])))
        real(histories, steps, into)

    monkeypatch.setattr(dataset, "gather", gather)
    windows.batch(0)
    assert read == [((8, 6), {5})]


def test_reward_statistics_are_those_of_the_windows(tmp_path, make_dataset):
    make_dataset(tmp_path, num_histories=1, num_shards=1)
    dataset = HistoryDataset(tmp_path)
    # Rewards 0 to 11: mean 11/2, variance (12^2 - 1) / 12.
    for seed in (0, 1):
        windows = sampler(dataset, num_steps=12, seed=seed)
        assert windows.reward_mean == pytest.approx(5.5)
        assert windows.reward_std == pytest.approx((143 / 12) ** 0.5)


def test_a_reward_that_never_varies_has_unit_deviation(tmp_path, make_dataset):
    make_dataset(tmp_path, num_histories=1, num_shards=1, num_steps=1, episode_length=1)
    windows = sampler(HistoryDataset(tmp_path), num_steps=1)
    assert (windows.reward_mean, windows.reward_std) == (0.0, 1.0)


def test_continuous_actions_are_shown_as_they_are(tmp_path, make_info, make_block):
    info = make_info(action_space=spaces.Box(-1, 1, (2,), np.float32), policies=[])
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    taken = torch.rand(2, 3, 12, 2)
    for index in range(2):
        ids = list(range(3 * index, 3 * index + 3))
        block = make_block(info, range(ids[0], ids[0] + 3), range(12), None)
        with ShardWriter(tmp_path, info, index, task_ids=ids, learner_ids=ids) as writer:
            writer.append(block._replace(action=taken[index]))
    batch = sampler(HistoryDataset(tmp_path), batch_size=4).batch(0)
    previous, action = batch.steps.previous_action, batch.targets["action"]
    assert previous.dtype == torch.float32
    assert previous[:, 0].isnan().all()
    assert torch.equal(previous[:, 1:], action[:, :-1])
    histories = taken.flatten(0, 1)[:, :6]
    assert all((histories == window).all(dim=(1, 2)).any() for window in action)
