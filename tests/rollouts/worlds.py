"""Environments whose episodes end apart, and a vector of them that resets in the step after."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

ACTIONS = {
    "choice": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([3, 2]),
    "vector": spaces.Box(-0.5, 1.5, (2,), np.float32),
}


class Slide(gymnasium.Env):
    """Slide along cells from a random start, and sometimes slip; over beyond either end."""

    def __init__(self, size: int = 7, goal: int = 0, kind: str = "choice"):
        self.observation_space = spaces.Discrete(size)
        self.action_space, self.goal, self.cell = ACTIONS[kind], goal, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(1, self.observation_space.n - 1))
        return self.cell, {}

    def step(self, action):
        pushed = round(float(np.sum(action)))
        self.cell += pushed - 1 + int(self.np_random.integers(-1, 2))
        self.cell = min(max(self.cell, 0), int(self.observation_space.n) - 1)
        over = self.cell in (0, self.observation_space.n - 1)
        return self.cell, float(self.cell == self.goal) + 0.25 * pushed, over, False, {}


class Lagging(gymnasium.vector.VectorEnv):
    """Environments that begin their next episode in the step after the one that ended the last.

    Args:
        envs: One by one.
        seeds: Of the first resets.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, envs, seeds):
        self.envs_apart, self.seeds, self.num_envs = envs, seeds, len(envs)
        self.single_observation_space = envs[0].observation_space
        self.single_action_space = envs[0].action_space
        self.ended = np.zeros(len(envs), np.bool_)
        self.num_steps = 0

    def reset(self, *, seed=None, options=None):
        self.ended[:] = False
        pairs = zip(self.envs_apart, self.seeds, strict=True)
        return np.array([env.reset(seed=its)[0] for env, its in pairs]), {}

    def step(self, actions):
        self.num_steps += 1
        results = [
            (env.reset()[0], 0.0, False, False) if ended else env.step(action)[:4]
            for env, action, ended in zip(self.envs_apart, actions, self.ended, strict=True)
        ]  # fmt: skip
        observation, reward, over, cut = map(np.array, zip(*results, strict=True))
        self.ended = over | cut
        return observation, reward, over, cut, {}
