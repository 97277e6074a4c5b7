"""Intervals, by values worked out by hand."""

import numpy as np
import pytest
import torch

from fastad.evaluate.metrics import estimate, t_quantile, task_means


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
