"""From somebody's own environment to a picture: collect, train and roll out, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

import fastad

MODEL = {"width": 16, "num_layers": 1, "num_heads": 2, "context": 40}
FAMILIES = {
    "gym:CartPole-v1": {"tasks": {"length": [0.3, 1.5]}, "episode_length": 30},
    "gym:Pendulum-v1": {"tasks": {"m": [0.5, 1.5], "l": [0.5, 1.5]}, "episode_length": 20},
    "gym:FrozenLake-v1": {"tasks": {"success_rate": [0.3, 1.0]}, "episode_length": 20},
    "gym:Blackjack-v1": {"tasks": "seeds", "episode_length": 10},
    "gym:minigrid:MiniGrid-Empty-Random-5x5-v0": {
        "tasks": "seeds", "observe": "image,direction", "episode_length": 20,
    },
    "outside:Mixed": {
        "tasks": {"goal": [0, 4], "reward": [0.5, 1.5]}, "observe": "cell,picture,pose",
        "episode_length": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_learns_from_any_environment_and_acts_in_it(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "envs")
    dataset = fastad.collect(
        out=tmp_path / "data", env=name, env_options=FAMILIES[name], source="random",
        num_histories=8, num_episodes=4, num_train_tasks=4, num_test_tasks=2,
    )  # fmt: skip
    run = fastad.train(data=dataset, out=tmp_path / "run", updates=4, batch_size=4, **MODEL)
    cached, recomputed = (
        fastad.rollout(run, episodes=3, rollouts_per_task=2, kv_cache=kept)
        for kept in (True, False)
    )
    assert cached.returns.shape == (4, 3)
    # Actions in a box are as alike as the logits; others are the same.
    np.testing.assert_allclose(cached.returns, recomputed.returns, rtol=1e-3)
    assert cached.optimal_return is None
    cached.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
