"""DPT: expert labels, in the order of the history or as a set of transitions."""

import numpy as np
import pytest
import torch

import fastad
from fastad.base.errors import UserError
from fastad.configs import TrainConfig
from fastad.histories.reader import HistoryDataset
from fastad.methods.dpt import DecisionPretraining, shuffled
from fastad.methods.registry import label, make_method
from fastad.methods.windows import WindowSampler

NONE = 5  # an action
WINDOW = 10


@pytest.fixture
def dataset(tmp_path, make_dataset, monkeypatch):
    """The fabricated histories, whose source is the expert: most probable is the action taken."""
    monkeypatch.setattr("fastad.methods.ad.COLUMNS", {"expert": ("policy", "")})
    make_dataset(tmp_path / "data")
    return HistoryDataset(tmp_path / "data")


def method_of(dataset, *, unordered=True, batch_size=8, **place):
    windows = WindowSampler(dataset, num_steps=WINDOW, batch_size=batch_size, seed=3, **place)
    return DecisionPretraining(windows, unordered=unordered)


def test_shuffled_steps_come_each_after_the_transition_from_the_one_before(dataset):
    happened = method_of(dataset, unordered=False).batch(4)
    batch = method_of(dataset).batch(4)
    steps, taken = batch.steps, happened.targets["action"]
    assert not torch.equal(steps.observation, happened.steps.observation)
    for row in range(8):
        # Observation (history modulo 9, step modulo 9), reward 1000 history + step.
        history = int(happened.steps.observation[row, 0, 0])
        order = [0] * WINDOW
        for at in range(WINDOW):
            step = int(steps.observation[row, at, 1])
            if step == 0 and int(steps.episode_step[row, at]) == 1:
                step = 9
            order[at] = step
            assert steps.episode_step[row, at] == step % 4  # episodes of four steps
            assert steps.episode_start[row, at] == (step % 4 == 0)
            assert batch.targets["action"][row, at] == taken[row, step]
            if at == 0:
                assert steps.previous_action[row, 0] == NONE
                assert steps.previous_reward[row, 0] == 0
            else:
                before = order[at - 1]
                assert steps.previous_observation[row, at].tolist() == [history, before % 9]
                assert steps.previous_action[row, at] == taken[row, before]
                assert steps.previous_reward[row, at] == 1000 * history + before
        assert sorted(order) == list(range(WINDOW))
        assert order[-1] == WINDOW - 1


def test_targets_are_the_experts_of_the_steps_that_are_shown(dataset):
    batch = method_of(dataset).batch(0)
    expert = batch.targets["policy"]
    torch.testing.assert_close(expert.sum(-1), torch.ones(8, WINDOW))
    assert torch.equal(expert.argmax(-1), batch.targets["action"])


def test_orders_are_uniform_and_another_in_every_window_and_update(dataset):
    method = method_of(dataset, batch_size=2000)
    first, second = method._orders(0), method._orders(1)
    assert not torch.equal(first, second)
    assert torch.equal(first, method._orders(0))
    # Every step but the last is first in a ninth of the windows: 222, with a deviation of 14.
    counts = np.bincount(first[:, 0], minlength=WINDOW)
    assert counts[-1] == 0
    assert np.abs(counts[:-1] - 2000 / 9).max() < 5 * 14


def test_ranks_share_a_batch(dataset):
    whole = method_of(dataset, batch_size=6).batch(5)
    parts = [method_of(dataset, batch_size=3, rank=r, world_size=2).batch(5) for r in range(2)]
    for field in ("observation", "previous_action", "previous_reward", "previous_observation"):
        both = torch.cat([getattr(part.steps, field) for part in parts])
        assert torch.equal(both, getattr(whole.steps, field))


def test_in_order_it_is_shown_the_history_as_it_was(dataset):
    sizes = {"num_steps": WINDOW, "batch_size": 4, "seed": 0}
    ad = make_method("ad", dataset, target="expert", **sizes)
    dpt = make_method("dpt", dataset, target="expert", **sizes)
    one, other = ad.batch(2), dpt.batch(2)
    assert other.steps.previous_observation is None
    assert all(map(torch.equal, one.steps[:5], other.steps[:5]))
    assert torch.equal(one.targets["policy"], other.targets["policy"])


def test_the_identity_shuffles_nothing(dataset):
    steps = method_of(dataset, unordered=False).batch(0).steps
    same = shuffled(steps, torch.arange(WINDOW).expand(8, WINDOW))
    assert all(map(torch.equal, same[:5], steps[:5]))
    assert torch.equal(same.previous_observation[:, 1:], steps.observation[:, :-1])


@pytest.mark.parametrize("layout", ["fused", "unordered"])
def test_a_run_that_was_stopped_ends_with_the_same_bits_and_is_rolled_out(layout, tmp_path):
    data = fastad.collect(
        out=tmp_path / "room", env_options={"size": 3, "episode_length": 4}, num_histories=24,
        num_episodes=12, num_test_tasks=2, labels=("expert",),
    )  # fmt: skip
    again = {"data": data, "method": "dpt", "layout": layout, "log_every": 1, "updates": 4,
             "batch_size": 6, "window": 24, "context": 24, "width": 16}  # fmt: skip

    def stop(done, total, **metrics):
        if done == 2:
            raise KeyboardInterrupt

    whole = fastad.train(out=tmp_path / "whole", **again)
    with pytest.raises(KeyboardInterrupt):
        fastad.train(out=tmp_path / "broken", progress=stop, **again)
    broken = fastad.train(out=tmp_path / "broken", resume=True, **again)
    ends = [run.checkpoints[-1] / "model.safetensors" for run in (whole, broken)]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert [record["eval_last"] for record in broken.metrics if "eval_last" in record]
    result = fastad.rollout(whole, episodes=3, rollouts_per_task=2)
    assert (result.method, result.label) == ("dpt", "DPT, expert labels: told the task")
    assert result.returns.shape == (4, 3)


def test_results_say_that_it_was_told_the_task():
    assert label("dpt", "expert") == "DPT, expert labels: told the task"


def test_data_without_an_experts_labels_are_refused(tmp_path, make_dataset):
    make_dataset(tmp_path)
    with pytest.raises(UserError, match=r"needs the column expert_policy.*--labels expert"):
        make_method(
            "dpt", HistoryDataset(tmp_path), target="expert", num_steps=4, batch_size=2, seed=0
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dpt", "target": "final"}, "method=dpt learns .* target=final is another"),
        ({"layout": "unordered"}, "layout=unordered is for method=dpt.*method=ad learns"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        fastad.train(TrainConfig(data=tmp_path / "none"), **changes)
