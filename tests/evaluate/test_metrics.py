"""Intervals, by values worked out by hand."""

import numpy as np
import pytest
import torch

from fastad.evaluate.metrics import estimate, estimate_over_seeds, t_quantile, task_means


def interval_of(returns, num_tasks):
    return estimate(task_means(returns, num_tasks)).interval


def test_the_interval_of_equal_returns_is_a_point():
    interval = interval_of(torch.full((6, 2), 3.0), 3)
    assert interval.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_the_interval_has_the_width_of_the_central_limit_theorem():
    returns = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    low, high = interval_of(returns, 400)[:, 0]
    width = 2 * 1.96 * returns.std().item() / 20
    assert high - low == pytest.approx(width, rel=0.1)
    assert low < returns.mean() < high


def test_rollouts_of_one_task_do_not_count_as_independent():
    # Ten tasks, each with a return of its own, rolled out forty times: the tasks are what varies.
    returns = torch.arange(10.0).repeat_interleave(40)[:, None]
    by_task = np.ptp(interval_of(returns, 10))
    by_rollout = np.ptp(interval_of(returns, 400))
    assert by_task > 4 * by_rollout


def test_quantiles_of_student_s_t_are_those_of_the_tables():
    table = {1: 12.7062, 2: 4.3027, 5: 2.5706, 15: 2.1314, 30: 2.0423, 120: 1.9799}
    for degrees, value in table.items():
        assert t_quantile(0.975, degrees) == pytest.approx(value, abs=6e-5)
    assert t_quantile(0.95, 5) == pytest.approx(2.0150, abs=6e-5)


def test_symmetric_tasks_have_student_s_interval():
    # Mean 3, standard deviation sqrt(10 / 4), 4 degrees of freedom: 2.7764 / sqrt(2).
    low, high = estimate(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).interval
    assert (3 - low, high - 3) == pytest.approx((1.9632, 1.9632), abs=1e-4)


def test_skewed_tasks_widen_the_side_of_the_long_tail():
    # Tasks 0, 0, 0, 0, 5: mean 1, standard error 1, G1 = sqrt(5), so b = G1 / sqrt(5) = 1.
    # T = 3 (cbrt(1 - 1 / 6 +- 2.7764) - 1) is 1.6026 and -6.7426.
    low, high = estimate(np.array([0.0, 0.0, 0.0, 0.0, 5.0])).interval
    upper, lower = (3 * (np.cbrt(5 / 6 + q) - 1) for q in (2.776445, -2.776445))
    assert (low, high) == pytest.approx((1 - upper, 1 - lower), abs=1e-4)
    assert (low, high) == pytest.approx((-0.6024, 7.7424), abs=2e-3)


# Task effects by name: 20,000 samples of 16, and their mean by theory.
EFFECTS = {
    "normal": (lambda random, shape: random.normal(size=shape), 0.0),
    "exponential": (lambda random, shape: random.exponential(size=shape), 1.0),
    "beta(5, 1)": (lambda random, shape: random.beta(5, 1, shape), 5 / 6),
    "a fifth unsolved": (
        lambda random, shape: np.where(
            random.random(shape) < 0.8, random.normal(16, 1, shape), random.normal(4, 2, shape)
        ),
        0.8 * 16 + 0.2 * 4,
    ),
}


@pytest.mark.parametrize("effects", EFFECTS)
def test_95_percent_intervals_over_16_tasks_cover_94_to_97_percent(effects):
    # The standard error of the share is 0.15 %. The percentile bootstrap covers 89.7 to 92.6 %
    # here, Student's interval 90.9 to 95.0.
    draw, mean = EFFECTS[effects]
    low, high = estimate(draw(np.random.default_rng(0), (16, 20_000))).interval
    assert 0.94 < ((low <= mean) & (mean <= high)).mean() < 0.97


def test_one_task_has_no_interval():
    means = task_means(torch.rand(8, 3), 1)
    assert estimate(means).interval is None


SAME = [tuple(range(4))] * 3


def test_equal_seeds_leave_the_interval_of_the_tasks():
    values = [np.array([1.0, 2.0, 4.0, 9.0])] * 3
    mean, interval = estimate_over_seeds(values, SAME)
    alone = estimate(values[0])
    assert mean == alone.mean == 4.0
    np.testing.assert_allclose(interval, alone.interval)
    one = estimate_over_seeds(values[:1], SAME[:1])
    np.testing.assert_allclose(one.interval, alone.interval)


def test_seeds_that_differ_on_equal_tasks_have_student_s_interval():
    # Means 1, 2 and 3, no task apart: 4.3027 / sqrt(3), two degrees of freedom.
    mean, interval = estimate_over_seeds([np.full(4, seed) for seed in (1.0, 2.0, 3.0)], SAME)
    assert mean == 2.0
    assert interval.tolist() == pytest.approx([2 - 2.4842, 2 + 2.4842], abs=1e-3)


def test_the_squares_of_both_arms_are_added():
    tasks = np.array([-3.0, -1.0, 1.0, 3.0])
    _, interval = estimate_over_seeds([tasks + seed for seed in (-1.0, 0.0, 1.0)], SAME)
    by_task = t_quantile(0.975, 3) * tasks.std(ddof=1) / 2
    by_seed = t_quantile(0.975, 2) / np.sqrt(3)
    assert interval[1] == pytest.approx(np.hypot(by_task, by_seed))
    assert interval[0] == pytest.approx(-interval[1])


def test_differences_of_seeds_that_their_tasks_explain_do_not_count_twice():
    # Other tasks each: three seeds of four tasks are twelve tasks.
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 4, 2000))
    names = [tuple((seed, task) for task in range(4)) for seed in range(3)]
    low, high = estimate_over_seeds([*values], names).interval
    covered = ((low <= 0) & (high >= 0)).mean()
    assert 0.94 < covered < 0.985
    alone = estimate(values.reshape(12, 2000)).interval
    wider = np.median(high - low) / np.median(np.ptp(alone, axis=0))
    assert 1.0 <= wider < 1.25


@pytest.mark.parametrize("spread", [(1.0, 0.0, 0.3), (1.0, 0.5, 0.3), (0.3, 0.5, 0.3)])
def test_intervals_over_16_tasks_and_3_seeds_cover_what_they_say(spread):
    # Of tasks, of seeds, of both together. The tasks' interval alone covers 95, 81 and 47 %.
    random = np.random.default_rng(0)
    task, seed, both = (
        size * random.normal(size=shape)
        for size, shape in zip(spread, [(1, 16, 4000), (3, 1, 4000), (3, 16, 4000)], strict=True)
    )
    names = [tuple(range(16))] * 3
    low, high = estimate_over_seeds([*(task + seed + both)], names).interval
    assert 0.935 < ((low <= 0) & (high >= 0)).mean() < 0.98


def test_neighbours_share_what_the_seeds_differ_by():
    # Seeds differ by sqrt(3) in the middle one of three episodes; averaged, by 1 in each.
    values = np.zeros((3, 4, 3))
    values[:, :, 1] = np.array([-1.0, 0.0, 1.0])[:, None] * 3**0.5
    _, interval = estimate_over_seeds([*values], SAME, neighbours=3)
    arm = t_quantile(0.975, 2) / np.sqrt(3)
    # At the ends there are two neighbours: half of 3 each.
    assert interval[1].tolist() == pytest.approx([arm * 1.5**0.5, arm, arm * 1.5**0.5])
