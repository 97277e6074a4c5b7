"""A small room, seen as symbols, and its histories as XLand-100B's files are laid out."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

FLOOR, WALL, GREY, BLACK = 3, 4, 8, 9  # as XLand-MiniGrid has them
SIZE, MIDDLE = 5, 2


class Room(gym.Env):
    """A dark room: the agent knows where it is, and not which cell pays."""

    observation_space = spaces.MultiDiscrete([SIZE, SIZE])
    action_space = spaces.Discrete(6)
    moves = ((0, 1), (1, 0), (0, -1), (-1, 0), (0, 0), (0, 0))

    def __init__(self, ruleset_id):
        self.goal = divmod(ruleset_id, SIZE)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = (MIDDLE, MIDDLE)
        return self.seen(np.array(self.at)), {}

    def step(self, action):
        move = self.moves[action]
        self.at = tuple(min(max(a + b, 0), SIZE - 1) for a, b in zip(self.at, move, strict=True))
        return self.seen(np.array(self.at)), float(self.at == self.goal), False, False, {}

    def seen(self, at):
        return at


class SymbolRoom(Room):
    """The same, of which the agent sees the walls around it, as in XLand-MiniGrid."""

    observation_space = spaces.MultiDiscrete(np.tile([13, 12], (SIZE, SIZE, 1)))

    def seen(self, at):
        return symbols(at)


def symbols(at):
    """What is around places (..., 2): kind and colour of 5 x 5 cells, (..., 5, 5, 2)."""
    away = np.arange(SIZE) - MIDDLE
    y, x = at[..., 0, None, None] + away[:, None], at[..., 1, None, None] + away
    inside = (y >= 0) & (y < SIZE) & (x >= 0) & (x < SIZE)
    return np.where(inside[..., None], [FLOOR, BLACK], [WALL, GREY])


def write_xland(file, dataset, *, chunk=64, env_id="SymbolRoom-5x5", expert=True):
    """Histories of `Room` as an HDF5 file of XLand-100B's layout, with symbols."""
    import h5py

    told = dataset.info.family(dataset.path).distribution
    with h5py.File(file, "w") as stream:
        for index, task in enumerate(np.unique(dataset.task_ids)):
            of_task = np.flatnonzero(dataset.task_ids == task)
            read = [dataset.read(int(h), 0, dataset.num_steps) for h in of_task]
            steps = {name: np.stack([each[name] for each in read]) for name in read[0]}
            seen = symbols(steps["observation"].astype(int))
            columns = {
                "states": (seen[..., 0] * 12 + seen[..., 1]).astype(np.uint8),
                "actions": steps["action"].astype(np.uint8),
                "rewards": steps["reward"].astype(np.float16),
                "dones": steps["terminated"] | steps["truncated"],
            }
            if expert:
                columns["expert_actions"] = steps["final_policy"].argmax(-1).astype(np.uint8)
            group = stream.create_group(str(index))
            ruleset = told.arguments(torch.from_numpy(dataset.tasks[task]))["ruleset_id"]
            group.attrs.update({"env-id": env_id, "benchmark-id": "room", "ruleset-id": ruleset})
            for name, values in columns.items():
                group.create_dataset(
                    name, data=values, compression="gzip", compression_opts=6,
                    chunks=(1, min(chunk, values.shape[1]), *values.shape[2:]),
                )  # fmt: skip
    return file
