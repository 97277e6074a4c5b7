"""Intervals and regret, by values worked out by hand."""

import numpy as np
import pytest
import torch

from fastad.evaluate.metrics import bandit_regret, bootstrap_interval
from fastad.evaluate.summary import shown_episodes


def test_the_interval_of_equal_returns_is_a_point():
    interval = bootstrap_interval(torch.full((6, 2), 3.0), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert interval.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_the_interval_has_the_width_of_the_central_limit_theorem():
    returns = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_interval(returns, torch.arange(400))[:, 0]
    width = 2 * 1.96 * returns.std().item() / 20
    assert high - low == pytest.approx(width, rel=0.1)
    assert low < returns.mean() < high


def test_rollouts_of_one_task_do_not_count_as_independent():
    # Ten tasks, each with a return of its own, rolled out forty times: the tasks are what varies.
    returns = torch.arange(10.0).repeat_interleave(40)[:, None]
    tasks = torch.arange(10).repeat_interleave(40)
    by_task = np.ptp(bootstrap_interval(returns, tasks))
    by_rollout = np.ptp(bootstrap_interval(returns, torch.arange(400)))
    assert by_task > 4 * by_rollout


def test_regret_is_the_expected_reward_missed_at_each_pull():
    means = torch.tensor([[0.2, 0.9], [0.5, 0.1]])
    actions = torch.tensor([[0, 1, 1], [1, 1, 0]])
    expected = torch.tensor([[0.7, 0.0, 0.0], [0.4, 0.4, 0.0]])
    torch.testing.assert_close(bandit_regret(means, actions), expected)


def test_the_table_shows_episodes_1_2_5_10_and_the_last():
    assert shown_episodes(10) == [1, 2, 5, 10]
    assert shown_episodes(8) == [1, 2, 5, 8]
    assert shown_episodes(200) == [1, 2, 5, 10, 20, 50, 100, 200]
    assert shown_episodes(1) == [1]
