"""Q-learning in Dark Room as JAX code learns it: one learner, under `jit(vmap(scan))`.

The same learner as fastad's `q-learning`: softmax over the table's rows, an update per step, and
the episode replayed from its end, several times; float32 on the default device.
"""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import peer
from fastad.envs.grid import STEPS

SIZE, EPISODE_LENGTH = 9, 20


class Settings(NamedTuple):
    """Of every learner, by fastad's names; its defaults."""

    learning_rate: float = 1.0
    gamma: float = 0.9
    initial_value: float = 0.3
    temperature: float = 0.02
    replay_sweeps: int = 3


class JaxQLearning:
    """`N` learners.

    Args:
        goals: (N, 2).
        settings: Of every learner.
    """

    def __init__(self, goals: np.ndarray, settings: Settings) -> None:
        self.jax, self.settings = peer("jax"), settings
        jax, jnp = self.jax, self.jax.numpy
        self.goals = jnp.asarray(goals[:, 0] * SIZE + goals[:, 1], dtype="int32")
        shape = len(goals), SIZE * SIZE, len(STEPS)
        self.tables = jnp.full(shape, settings.initial_value, "float32")
        cells = np.stack(np.divmod(np.arange(SIZE * SIZE), SIZE), axis=1)
        ends = (cells[:, None] + np.array(STEPS)).clip(0, SIZE - 1)
        self.moves = jnp.asarray(ends[..., 0] * SIZE + ends[..., 1], dtype="int32")  # (S, A)
        self.key = jax.random.key(0)
        # The tables that come in are given up, so that XLA may write where they lie.
        self._learn_all = jax.jit(jax.vmap(self._draw_and_learn), donate_argnums=0)

    def learn(self) -> Any:
        """Let every learner act for an episode, and learn.

        Returns:
            The histories: cells before acting, actions and rewards (N, T), policies (N, T, A).
        """
        self.key, draw = self.jax.random.split(self.key)
        keys = self.jax.random.split(draw, len(self.goals))
        self.tables, history = self._learn_all(self.tables, self.goals, keys)
        return self.jax.block_until_ready(history)

    def follow(self, actions: np.ndarray) -> Any:
        """As `learn`, with the actions (N, T) given."""
        given = self.jax.numpy.asarray(actions, dtype="int32")
        self.tables, history = self.jax.vmap(self._learn)(self.tables, self.goals, given)
        return history

    def _draw_and_learn(self, table: Any, goal: Any, key: Any) -> Any:
        return self._learn(table, goal, self.jax.random.uniform(key, (EPISODE_LENGTH,)))

    def _learn(self, table: Any, goal: Any, numbers: Any) -> Any:
        """An episode by uniform numbers that draw the actions, or by actions themselves, (T,)."""
        jax, jnp, settings = self.jax, self.jax.numpy, self.settings
        is_given = numbers.dtype == jnp.int32

        def update(table: Any, step: Any) -> Any:
            cell, action, reward, end = step
            target = reward + settings.gamma * table[end].max()
            if settings.learning_rate < 1:
                known = table[cell, action]
                target = known + settings.learning_rate * (target - known)
            return table.at[cell, action].set(target)

        def act(carry: Any, number: Any) -> Any:
            table, cell = carry
            policy = jax.nn.softmax(table[cell] / settings.temperature)
            action = number
            if not is_given:
                action = (number >= jnp.cumsum(policy)[:-1]).sum(dtype="int32")
            end = self.moves[cell, action]
            step = cell, action, (end == goal).astype("float32"), end
            return (update(table, step), end), (step, policy)

        start = jnp.int32(SIZE * SIZE // 2)
        (table, _), (steps, policies) = jax.lax.scan(act, (table, start), numbers)
        for _ in range(settings.replay_sweeps):
            table, _ = jax.lax.scan(lambda q, s: (update(q, s), None), table, steps, reverse=True)
        return table, (*steps[:3], policies)
