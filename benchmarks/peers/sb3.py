"""Stable-Baselines3 learning Dark Room, as code for Algorithm Distillation makes its histories."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from benchmarks.harness import peer
from fastad.envs.grid import STEPS


class PlainDarkRoom(gymnasium.Env[Any, Any]):
    """Dark Room for one learner in plain Python: nothing of fastad slows this side down.

    Args:
        goal: The rewarding cell, (x, y).
        size: Cells along each wall.
        episode_length: Steps per episode.
    """

    def __init__(self, goal: tuple[int, int], size: int = 9, episode_length: int = 20) -> None:
        self.goal, self.size, self.episode_length = goal, size, episode_length
        self.observation_space = spaces.MultiDiscrete([size, size])
        self.action_space = spaces.Discrete(len(STEPS))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode at the centre."""
        super().reset(seed=seed)
        self.x = self.y = self.size // 2
        self.time = 0
        return np.array((self.x, self.y)), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move; reward 1 on the goal."""
        dx, dy = STEPS[action]
        self.x = min(max(self.x + dx, 0), self.size - 1)
        self.y = min(max(self.y + dy, 0), self.size - 1)
        self.time += 1
        reward = float((self.x, self.y) == self.goal)
        return np.array((self.x, self.y)), reward, False, self.time == self.episode_length, {}


def a2c(env: Any, *, num_envs: int, **env_kwargs: Any) -> Any:
    """A2C with its defaults on `num_envs` copies of one task, in one process, on the CPU.

    Args:
        env: An environment class, or an id of Gymnasium's.
        num_envs: Copies that one learner steps together.
        **env_kwargs: Of the environment.
    """
    vec_env = peer("stable_baselines3.common.env_util").make_vec_env(
        env, n_envs=num_envs, env_kwargs=env_kwargs, seed=0
    )
    return peer("stable_baselines3").A2C("MlpPolicy", vec_env, device="cpu", seed=0)
