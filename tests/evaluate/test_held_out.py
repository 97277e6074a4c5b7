"""Task sets, baselines on the same tasks, and the picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastad.errors import UserError
from fastad.evaluate.held_out import TaskSet, try_model
from fastad.evaluate.plots import plot_returns
from fastad.evaluate.summary import figures_of, print_table
from fastad.model.config import ModelConfig
from fastad.model.transformer import Transformer


@pytest.fixture
def rooms(make_info):
    info = make_info(
        env="dark-room", env_kwargs={"size": 3, "episode_length": 6}, source="frontier",
        source_knows="the movement rules, not the reward", num_steps=24, episode_length=6,
    )  # fmt: skip
    return TaskSet(info, torch.tensor([[0, 0], [1, 0]]), 3, seed=0)


@pytest.fixture
def arms(make_info):
    info = make_info(
        env="bernoulli-bandit", env_kwargs={"num_arms": 2}, source="ucb1", num_steps=50,
        episode_length=1,
    )  # fmt: skip
    return TaskSet(info, torch.tensor([[0.0, 1.0]]), 4, seed=0)


def make_model(tasks):
    env = tasks.make_env(tasks.generator("cpu"))
    torch.manual_seed(0)
    config = ModelConfig(width=16, num_layers=1, context=8)
    return Transformer(config, env.observation_space, env.action_space, env.episode_length)


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


def test_figures_carry_the_plain_names_and_the_privilege(rooms, capsys):
    trial = try_model(make_model(rooms), rooms, num_episodes=3)
    figures = figures_of(trial, rooms, kv_cache=True)
    assert len(figures["returns"]) == len(figures["interval"][0]) == 3
    assert figures["optimal_return"] == 5.5
    assert {"source_returns", "random_return", "seed", "versions", "steps_per_second_cached"} <= (
        figures.keys()
    )
    print_table(figures, rooms)
    assert "the source frontier knows the movement rules, not the reward" in capsys.readouterr().out


def test_an_empty_split_is_refused_with_the_fix(rooms):
    with pytest.raises(UserError, match="the test split is empty; collect with --num-test-tasks"):
        replace(rooms, tasks=rooms.tasks[:0])


def test_a_picture_is_written(tmp_path):
    plot_returns(
        tmp_path / "new" / "returns.png", returns=np.array([1.0, 2.0]),
        interval=np.array([[0.5, 1.5], [1.5, 2.5]]), source_returns=[1.0, 1.5, 1.7],
        levels={"random": 0.1, "optimal": 2.5}, title="t", subtitle="s", source_label="source",
    )  # fmt: skip
    assert (tmp_path / "new" / "returns.png").read_bytes().startswith(b"\x89PNG")
