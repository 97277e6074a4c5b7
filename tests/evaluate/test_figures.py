"""Figures of a result, by values worked out by hand; their names are what JSON files have."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastad.evaluate.result import Result
from fastad.evaluate.table import print_table


def test_figures_carry_the_plain_names(rooms, result_on):
    figures = result_on(rooms, 3).figures()
    assert len(figures["returns"]) == len(figures["interval"][0]) == 3
    assert figures["optimal_return"] == 5.5
    assert figures["task_optima"] == [5.0, 6.0]
    assert {
        "env", "env_options", "source", "source_options", "source_knows", "source_action_noise",
        "noise_labels", "returns", "interval", "source_returns", "source_interval",
        "source_returns_clean", "source_interval_clean", "minus_source", "minus_source_clean",
        "random_return", "optimal_return", "share_of_optimum", "steps_per_second_cached",
        "num_tasks", "rollouts_per_task", "split", "seed", "versions", "tasks", "task_returns",
        "control", "greedy", "run",
    } <= figures.keys()  # fmt: skip


def test_without_a_cache_the_speed_has_the_other_name(rooms, result_on):
    result = result_on(rooms, 1, kv_cache=False)
    figures = result.figures()
    assert figures["steps_per_second_uncached"] == result.steps_per_second
    assert "steps_per_second_cached" not in figures


def test_tasks_count_alike_and_pair_with_the_source_on_the_same_tasks(rooms, result_on):
    result = result_on(rooms, 3)
    figures = result.figures()
    by_task = result.returns.astype(np.float64).reshape(2, 3, 3).mean(axis=1)
    assert figures["tasks"] == [[0, 0], [1, 0]]
    np.testing.assert_allclose(figures["task_returns"], by_task)
    np.testing.assert_allclose(figures["returns"], by_task.mean(axis=0))
    source = rooms.baseline().result.returns.double().view(2, 3, 4).mean(dim=1)[:, :3].numpy()
    difference = figures["minus_source"]
    np.testing.assert_allclose(difference["mean"], (by_task - source).mean(axis=0))
    # Two tasks: Student's quantile with one degree of freedom is tan(0.475 pi) = 12.706.
    half = 12.7062 * (by_task - source).std(axis=0, ddof=1) / 2**0.5
    width = np.ptp(difference["interval"], axis=0) / 2
    np.testing.assert_allclose(width, half, rtol=1e-4)


def test_a_noisy_source_is_shown_without_its_noise_as_well(rooms, result_on):
    noisy = replace(rooms, info=replace(rooms.info, action_noise=0.5))
    figures = result_on(noisy, 4).figures()
    # Without noise frontier ends at the optimum, 5 and 6; half of the actions random cost much.
    assert figures["source_returns_clean"][-1] == 5.5
    assert figures["source_returns"][-1] < 5.0
    both = [np.array(figures[f"minus_source{suffix}"]["mean"]) for suffix in ("", "_clean")]
    sources = [np.array(figures[f"source_returns{suffix}"]) for suffix in ("", "_clean")]
    np.testing.assert_allclose(both[0] + sources[0], both[1] + sources[1])


def test_without_noise_the_clean_source_is_the_source(rooms, result_on):
    figures = result_on(rooms, 1).figures()
    assert figures["source_returns_clean"] == figures["source_returns"]


def test_one_task_has_no_interval(rooms, result_on):
    figures = result_on(replace(rooms, tasks=rooms.tasks[:1]), 2).figures()
    assert figures["interval"] is None
    assert figures["minus_source"]["interval"] is None


def test_a_source_of_several_actors_costs_their_episodes(rooms, result_on, tmp_path):
    info = replace(rooms.info, source="a2c", source_kwargs={"num_actors": 3}, action_noise=0.1)
    result = result_on(replace(rooms, info=info), 2)
    cost = {name: other.episodes_per_episode for name, other in result.baselines.items()}
    assert cost == {"source": 3, "source_clean": 3, "random": 1}
    assert result.figures()["source_episodes_per_episode"] == 3
    result.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    assert loaded.baselines["source_clean"].episodes_per_episode == 3


def test_bandits_of_another_source_stand_beside_ucb1_too(arms, result_on, capsys):
    thompson = replace(arms, info=replace(arms.info, source="thompson"))
    result = result_on(thompson, 50)
    assert result.baselines.keys() == {"source", "random", "ucb1"}
    # Of the arms that pay never and always UCB1 pulls each once, then the better one nearly always.
    figures = result.figures()
    assert 1.0 <= figures["ucb1_regret"] < 5.0 < figures["random_regret"]
    assert figures["ucb1_regret"] == pytest.approx(result_on(arms, 50).figures()["source_regret"])
    print_table(result)
    assert f"UCB1 {figures['ucb1_regret']:.2f}" in capsys.readouterr().out


def test_regret_has_an_interval_and_is_compared_with_the_source_s(arms, trial_on, result_on):
    two = replace(arms, tasks=torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
    figures = result_on(two, 50).figures()
    # Two equal arms have no regret; the mean over tasks is half of the first task's.
    first = trial_on(two, 50).regret[:4].mean().item()
    assert figures["regret"] == pytest.approx(first / 2)
    low, high = figures["regret_interval"]
    assert high - low == pytest.approx(12.7062 * first, rel=1e-4)
    difference = figures["minus_source_regret"]["mean"]
    assert difference == pytest.approx(figures["regret"] - figures["source_regret"])


def test_what_is_not_known_is_none(rooms, result_on):
    bare = replace(result_on(rooms, 2), optimal_return=None, baselines={})
    figures = bare.figures()
    assert (figures["optimal_return"], figures["random_return"]) == (None, None)
    assert (figures["share_of_optimum"], figures["minus_source"]) == (None, None)
    assert figures["source_returns"] == []


def test_an_optimum_of_nothing_has_no_share(rooms, result_on):
    assert replace(result_on(rooms, 1), optimal_return=0.0).figures()["share_of_optimum"] is None
