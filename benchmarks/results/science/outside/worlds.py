"""Environments that others wrote, as the experiments in this folder had them."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from gymnasium.wrappers import TransformObservation


def lake(map_seed: int, size: int = 5) -> gym.Env:
    """FrozenLake on a random map, three quarters of it ice; seen by row and column."""
    ice = generate_random_map(size, p=0.75, seed=map_seed)
    env = gym.make("FrozenLake-v1", desc=ice, is_slippery=False, max_episode_steps=1000)
    place = spaces.MultiDiscrete([size, size])
    return TransformObservation(env, lambda cell: np.array(divmod(int(cell), size)), place)


def grid(env_id: str = "MiniGrid-Empty-Random-6x6-v0") -> gym.Env:
    """A MiniGrid as a vector: one-hot what each cell in sight holds, and the direction."""
    import minigrid  # noqa: F401, registers
    from minigrid.wrappers import OneHotPartialObsWrapper

    env = OneHotPartialObsWrapper(gym.make(env_id))
    space = spaces.Box(0.0, 1.0, (7 * 7 * 20 + 4,))

    def flat(seen: dict) -> np.ndarray:
        parts = (seen["image"].ravel(), np.eye(4)[seen["direction"]])
        return np.concatenate(parts).astype(np.float32)

    return TransformObservation(env, flat, space)
