"""Environments that a user might have written, good and bad: for the tests of `gym_in`."""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map


class Corridor(gymnasium.Env):
    """Walk from 0 to `goal`, 1 or 2, in a corridor of 5 cells; every start is drawn from 1 to 3.

    Ends within the goal, with reward 1; else never.
    """

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2, start=-1)  # left is -1, stay is 0

    def __init__(self, goal: int = 0, reward: float = 1.0):
        self.goal, self.reward = goal, reward
        self.cell = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(1, 4))
        return self.cell, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.cell = max(0, self.cell + int(action))
        reached = self.cell == self.goal
        return self.cell, self.reward * reached, reached, False, {}


class Picky(Corridor):
    """Refuses one goal, the last of a billion."""

    def __init__(self, goal: int):
        assert goal < 10**9
        super().__init__(goal)


def limited_corridor(goal: int, length: int) -> gymnasium.Env:
    """A corridor with a limit of its own."""
    return gymnasium.wrappers.TimeLimit(Corridor(goal), length)


class Mixed(Corridor):
    """Shows what it knows in several ways, one of which is text."""

    observation_space = spaces.Dict(
        {
            "cell": spaces.Discrete(5),
            "mission": spaces.Text(20),
            "picture": spaces.Box(0, 255, (2, 3), np.uint8),
            "pose": spaces.Tuple((spaces.Box(-1, 1, (2,), np.float64), spaces.MultiBinary(2))),
        }
    )

    def reset(self, *, seed=None, options=None):
        return self.show(super().reset(seed=seed)[0]), {}

    def step(self, action):
        cell, *rest = super().step(action)
        return self.show(cell), *rest

    def show(self, cell):
        return {
            "cell": cell,
            "mission": "go left",
            "picture": np.full((2, 3), 10 * cell, np.uint8),
            "pose": (np.array([cell / 4, -1.0]), np.array([cell > 1, 0], np.int8)),
        }


class Broken(Corridor):
    """A corridor in which one thing is wrong, from the fifth step on."""

    def __init__(self, what: str, goal: int = 0):
        super().__init__(goal)
        self.what, self.steps = what, 0
        if what == "spaces" and goal == 1:
            self.observation_space = spaces.Discrete(6)

    def reset(self, *, seed=None, options=None):
        cell, info = super().reset(seed=seed)
        return cell if self.what == "reset" else (cell, info)

    def step(self, action):
        cell, reward, over, cut, info = super().step(0)
        self.steps += 1
        if self.steps >= 5:
            cell = {"outside": 5, "dtype": 1.5, "shape": np.array([1])}.get(self.what, cell)
            reward = {"nan": np.nan, "infinite": np.inf, "none": None}.get(self.what, reward)
        if self.what == "random" and self.steps >= 5:
            cell = int(np.random.randint(5))  # noqa: NPY002, the mistake itself
        return (cell, reward, over, info) if self.what == "old" else (cell, reward, over, cut, info)


def lake(map_seed: int, size: int = 4) -> gymnasium.Env:
    """Frozen Lake on a map that its seed draws."""
    return FrozenLakeEnv(desc=generate_random_map(size, seed=map_seed), is_slippery=False)


ONE = Corridor()


def the_same() -> gymnasium.Env:
    """A mistake: everybody gets one environment."""
    return ONE


NUMBER = 3
