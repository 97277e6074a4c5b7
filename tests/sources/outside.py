"""Environments of Gymnasium's own as families of tasks that nobody here steps, for sources."""

from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import numpy as np
import torch

from fastad.envs.base import BatchedEnv
from fastad.envs.family import EnvSpec, TaskFamily


class Unstepped(BatchedEnv):
    """Says what its tasks are like; whoever owns its loop asks for no more."""

    def reset(self):
        raise AssertionError("a source with a loop of its own resets its own environment")

    def step(self, action):
        raise AssertionError("a source with a loop of its own steps its own environment")


@dataclass(frozen=True)
class Outside(TaskFamily):
    """One of Gymnasium's environments; tasks are numbered and alike."""

    name: ClassVar[str] = "outside"
    env: str = "CartPole-v1"
    episode_length: int = 500

    def _make(self):
        return gymnasium.make(self.env, max_episode_steps=self.episode_length)

    def spec(self):
        env = self._make()
        return EnvSpec(env.observation_space, env.action_space, self.episode_length, False)

    def make(self, tasks, generator):
        return Unstepped(self, tasks, generator)

    def tasks(self):
        return torch.arange(20)[:, None]

    def gym_env(self, task):
        return self._make()

    def to_store(self, env, observation):
        return np.asarray(observation)
