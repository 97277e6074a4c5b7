"""Rollouts beside a source with a loop of its own, Stable-Baselines3's A2C."""

import numpy as np
import pytest

import fastad
from fastad.evaluate.kept_results import keep_result
from fastad.sources.sb3 import StableBaselines
from fastad.training.run_files import ROLLOUTS

pytest.importorskip("stable_baselines3")

ASKED = {"episodes": 3, "tasks": 2, "rollouts_per_task": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own-loop")
    data = fastad.collect(
        out=folder / "data", env_options={"size": 3, "episode_length": 5}, source="sb3:A2C",
        num_histories=4, num_episodes=4, num_test_tasks=2,
    )  # fmt: skip
    return fastad.train(data=data, out=folder / "run", updates=2, width=16, num_layers=1, window=15)


def test_the_source_learns_every_task_once(run):
    result = fastad.rollout(run, **ASKED)
    assert result.returns.shape == (8, 3)
    assert result.baselines["source"].returns.shape == (2, 4)
    assert result.baselines["random"].returns.shape == (8, 4)
    assert result.source == "sb3:A2C"


def test_what_the_source_returned_is_kept_and_not_tried_again(run, monkeypatch):
    first = fastad.rollout(run, **ASKED)
    keep_result(run.path / ROLLOUTS, first)

    def fail(self, *args, **kwargs):
        raise AssertionError("tried again")

    monkeypatch.setattr(StableBaselines, "run", fail)
    second = fastad.rollout(run, greedy=True, **ASKED)
    np.testing.assert_array_equal(
        second.baselines["source"].returns, first.baselines["source"].returns
    )
    with pytest.raises(AssertionError, match="tried again"):
        fastad.rollout(run, seed=1, **ASKED)


def test_a_history_of_the_source_is_the_prompt_of_every_rollout_on_its_task(run):
    result = fastad.rollout(run, prompt_from="source", **ASKED)
    assert result.prompt_episodes == 4
    assert result.returns.shape == (8, 3)
