"""Environments of Gymnasium's own as families of tasks, in the least number of lines."""

from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import torch

from fastad.envs.base import BatchedEnv
from fastad.envs.family import EnvSpec, TaskFamily


class OneAfterAnother(BatchedEnv):
    def reset(self):
        self.envs = [self.family._make() for _ in self.tasks]
        seeds = torch.randint(2**31, (len(self.envs),), generator=self.generator).tolist()
        pairs = zip(self.envs, seeds, strict=True)
        return self._stack([env.reset(seed=seed)[0] for env, seed in pairs])

    def step(self, action):
        actions = action.numpy()
        steps = [env.step(each)[:4] for env, each in zip(self.envs, actions, strict=True)]
        seen, reward, terminated, truncated = zip(*steps, strict=True)
        self.final_observation = self._stack(seen)
        ended = [over or cut for over, cut in zip(terminated, truncated, strict=True)]
        following = [
            env.reset()[0] if over else last
            for env, over, last in zip(self.envs, ended, seen, strict=True)
        ]
        flags = torch.tensor([terminated, truncated])
        return self._stack(following), torch.tensor(reward, dtype=torch.float32), *flags

    def _stack(self, observations):
        return torch.stack([torch.as_tensor(each) for each in observations])


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
        return OneAfterAnother(self, tasks, generator)

    def tasks(self):
        return torch.arange(20)[:, None]
