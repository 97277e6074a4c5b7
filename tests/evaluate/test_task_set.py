"""Task sets, and baselines on the same tasks."""

from dataclasses import replace

import pytest

from fastad.base.errors import UserError


def test_every_task_is_tried_as_often(rooms):
    assert rooms.rows.tolist() == [[0, 0]] * 3 + [[1, 0]] * 3
    assert rooms.groups.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_optimum_is_the_mean_over_tasks(rooms):
    # From the centre (1, 1) the corner takes 2 steps, the edge 1: 5 and 6 of 6 rewards.
    assert rooms.optimal_return() == 5.5


def test_the_source_is_run_on_the_same_tasks_and_learns(rooms):
    trial = rooms.baseline()
    assert trial.result.returns.shape == (6, 4)
    assert trial.mean[-1].item() == 5.5
    assert trial.regret is None


def test_a_source_that_cannot_be_run_again_has_no_baseline(rooms):
    info = replace(rooms.info, source="algorithm-distillation")
    assert replace(rooms, info=info).baseline() is None


def test_bandits_have_regret_and_random_arms_the_expected_one(arms):
    trial = arms.baseline("random")
    assert trial.regret.shape == (4,)
    assert trial.regret.mean().item() == pytest.approx(25.0, abs=6.0)  # 50 pulls, half wrong


def test_an_empty_split_is_refused_with_the_fix(rooms):
    with pytest.raises(UserError, match="the test split is empty; collect with --num-test-tasks"):
        replace(rooms, tasks=rooms.tasks[:0])
