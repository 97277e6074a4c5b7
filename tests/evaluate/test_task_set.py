"""Task sets, baselines on the same tasks, and the picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastad.base.errors import UserError
from fastad.evaluate.plots import plot_returns
from fastad.evaluate.summary import figures_of, print_table, save_picture
from fastad.evaluate.task_set import TaskSet, try_model
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


def test_tasks_count_alike_and_pair_with_the_source_on_the_same_tasks(rooms):
    trial = try_model(make_model(rooms), rooms, num_episodes=3)
    figures = figures_of(trial, rooms, kv_cache=True)
    by_task = trial.result.returns.double().view(2, 3, 3).mean(dim=1)
    assert figures["tasks"] == [[0, 0], [1, 0]]
    np.testing.assert_allclose(figures["task_returns"], by_task)
    np.testing.assert_allclose(figures["returns"], by_task.mean(dim=0))
    source = rooms.baseline().result.returns.double().view(2, 3, 4).mean(dim=1)[:, :3]
    difference = figures["minus_source"]
    np.testing.assert_allclose(difference["mean"], (by_task - source).mean(dim=0))
    # Two tasks: Student's quantile with one degree of freedom is tan(0.475 pi) = 12.706.
    half = 12.7062 * (by_task - source).std(dim=0) / 2**0.5
    width = np.ptp(difference["interval"], axis=0) / 2
    np.testing.assert_allclose(width, half, rtol=1e-4)


def test_a_noisy_source_is_shown_without_its_noise_as_well(rooms, capsys, tmp_path):
    noisy = replace(rooms, info=replace(rooms.info, action_noise=0.5))
    trial = try_model(make_model(noisy), noisy, num_episodes=4)
    figures = figures_of(trial, noisy, kv_cache=True)
    # Without noise frontier ends at the optimum, 5 and 6; half of the actions random cost much.
    assert figures["source_returns_clean"][-1] == 5.5
    assert figures["source_returns"][-1] < 5.0
    both = [np.array(figures[f"minus_source{suffix}"]["mean"]) for suffix in ("", "_clean")]
    sources = [np.array(figures[f"source_returns{suffix}"]) for suffix in ("", "_clean")]
    np.testing.assert_allclose(both[0] + sources[0], both[1] + sources[1])
    print_table(figures, noisy)
    text = capsys.readouterr().out
    assert "50% random" in text
    assert "no noise" in text
    save_picture(tmp_path / "returns.png", figures, noisy)


def test_without_noise_the_clean_source_is_the_source(rooms):
    figures = figures_of(try_model(make_model(rooms), rooms, num_episodes=1), rooms, kv_cache=True)
    assert figures["source_returns_clean"] == figures["source_returns"]


def test_one_task_has_no_interval_and_the_table_says_so(rooms, capsys, tmp_path):
    one = replace(rooms, tasks=rooms.tasks[:1])
    figures = figures_of(try_model(make_model(one), one, num_episodes=2), one, kv_cache=True)
    assert figures["interval"] is None
    assert figures["minus_source"]["interval"] is None
    print_table(figures, one)
    assert "one task: it has no interval" in capsys.readouterr().out
    save_picture(tmp_path / "returns.png", figures, one)
    assert (tmp_path / "returns.png").exists()


def test_regret_has_an_interval_and_is_compared_with_the_source_s(arms):
    two = replace(arms, tasks=torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
    trial = try_model(make_model(two), two, num_episodes=50)
    figures = figures_of(trial, two, kv_cache=True)
    # Two equal arms have no regret; the mean over tasks is half of the first task's.
    first = trial.regret[:4].mean().item()
    assert figures["regret"] == pytest.approx(first / 2)
    low, high = figures["regret_interval"]
    assert high - low == pytest.approx(12.7062 * first, rel=1e-4)
    difference = figures["minus_source_regret"]["mean"]
    assert difference == pytest.approx(figures["regret"] - figures["source_regret"])


def test_what_an_older_dataset_does_not_tell_of_its_source_is_asked_of_the_source(arms, capsys):
    assert arms.info.source_knows == ""
    figures = figures_of(try_model(make_model(arms), arms, num_episodes=2), arms, kv_cache=True)
    print_table(figures, arms)
    assert "the source ucb1 knows that rewards lie in [0, 1]" in capsys.readouterr().out
    model = replace(arms.info, source="algorithm-distillation", source_knows="what it was taught")
    assert replace(arms, info=model).source_knows == "what it was taught"


def test_an_empty_split_is_refused_with_the_fix(rooms):
    with pytest.raises(UserError, match="the test split is empty; collect with --num-test-tasks"):
        replace(rooms, tasks=rooms.tasks[:0])


def test_a_picture_is_written(tmp_path):
    plot_returns(
        tmp_path / "new" / "returns.png", returns=np.array([1.0, 2.0]),
        interval=np.array([[0.5, 1.5], [1.5, 2.5]]), sources={"source": [1.0, 1.5, 1.7]},
        levels={"random": 0.1, "optimal": 2.5}, title="t", subtitle="s",
    )  # fmt: skip
    assert (tmp_path / "new" / "returns.png").read_bytes().startswith(b"\x89PNG")
