from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastad.acting.interact import episode_returns
from fastad.histories.jobs import collect
from fastad.histories.learning import run_source
from fastad.histories.reader import HistoryDataset

SETTINGS: dict[str, Any] = {
    "env": "dark-room",
    "env_kwargs": {"size": 5, "episode_length": 6},
    "source": "q-learning",
    "source_kwargs": {"replay_sweeps": 1},
    "action_noise": 0.1,
    "seed": 5,
}


def test_a_source_run_in_memory_returns_what_its_histories_do(tmp_path: Path) -> None:
    counts = {"num_histories": 800, "num_episodes": 10, "num_train": 8, "num_test": 4, "shards": 3}
    collect(tmp_path, **SETTINGS, **counts)
    data = HistoryDataset(tmp_path)
    tasks = torch.from_numpy(data.train_tasks).repeat(100, 1)
    run = run_source(tasks=tasks, num_episodes=10, **SETTINGS)
    returns = episode_returns(run.reward, run.terminated | run.truncated, 10)
    assert returns.shape == (800, 10)
    assert returns.dtype == torch.float32
    # Returns lie in 0..6: a mean over 800 learners has a standard error below 0.11.
    stored = data.returns(max_histories=800).mean
    np.testing.assert_allclose(returns.mean(dim=0).numpy(), stored, atol=0.5)


def test_a_source_run_in_memory_repeats_by_seed() -> None:
    tasks = torch.rand(5, 10, generator=torch.Generator().manual_seed(0))
    one, same, other = (
        run_source(
            "gaussian-bandit", tasks, env_kwargs={}, source="ucb1", source_kwargs={},
            num_episodes=30, seed=seed,
        ).reward
        for seed in (0, 0, 1)
    )  # fmt: skip
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_was_observed_need_not_be_kept() -> None:
    tasks = torch.tensor([[0, 0], [4, 3]])
    whole, rest = (
        run_source(tasks=tasks, num_episodes=100, keep_observed=kept, **SETTINGS)
        for kept in (True, False)
    )
    assert whole.observation.shape == (2, 600, 2)
    assert rest.observation.shape == rest.policy.shape == (2, 600, 0)
    for name in ("action", "reward", "terminated", "truncated"):
        assert torch.equal(getattr(rest, name), getattr(whole, name))
