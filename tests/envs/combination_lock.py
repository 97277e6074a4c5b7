"""A combination lock, an environment in one file as CONTRIBUTING.md says how to add one."""

from dataclasses import dataclass

import torch
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv, Rules
from fastad.envs.family import EnvSpec, TaskFamily


@dataclass(frozen=True)
class CombinationLock(TaskFamily):
    """A task is a secret sequence of buttons; one wrong button starts over. Opening pays 1."""

    name = "combination-lock"
    length: int = 2
    """Buttons in the secret."""

    def __post_init__(self):
        if self.length < 2:
            raise UserError(f"length={self.length} is not possible; use 2 or more")

    def spec(self):
        right, buttons = spaces.Discrete(self.length + 1), spaces.Discrete(3)
        return EnvSpec(right, buttons, episode_length=4 * self.length, fixed_length=False)

    def tasks(self):
        return torch.cartesian_prod(*[torch.arange(3)] * self.length)

    def make(self, tasks, generator):
        return LockEnv(self, tasks, generator)


class LockEnv(BatchedEnv):
    """The observation is how many buttons in a row were right, int64, (N,)."""

    def __init__(self, family, tasks, generator):
        super().__init__(family, tasks, generator)
        self._right, self._time = (torch.zeros_like(tasks[:, 0]) for _ in range(2))

    def reset(self):
        self._right.zero_()
        self._time.zero_()
        return self._right.clone()

    def step(self, action):
        right = action == self.tasks.gather(1, self._right[:, None])[:, 0]
        self._right.add_(1).mul_(right)
        self.final_observation = self._right.clone()
        terminated = self._right == self.family.length
        truncated = self._time.add_(1) == self.episode_length
        self._right.masked_fill_(terminated | truncated, 0)
        self._time.masked_fill_(terminated | truncated, 0)
        return self._right.clone(), terminated.float(), terminated, truncated

    def rules(self):
        return Rules.of(self.observation_space)
