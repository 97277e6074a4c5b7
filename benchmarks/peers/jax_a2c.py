"""A2C in Dark Room as JAX code learns it: one learner, written once, under `jit(vmap(scan))`.

The same learner as fastad's `a2c`: an MLP of tanh on one-hot coordinates, several actors in step,
an update per episode, GAE, entropy bonus, clipped gradients, Adam; float32 on the default device.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import peer
from fastad.envs.grid import STEPS

SIZE, EPISODE_LENGTH = 9, 20
BETAS, EPS = (0.9, 0.99), 1e-5


class Settings(NamedTuple):
    """Of every learner, by fastad's names."""

    num_actors: int = 4
    learning_rate: float = 0.003
    max_grad_norm: float = 0.5
    gamma: float = 0.95
    gae_lambda: float = 0.95
    entropy: float = 0.05
    value_weight: float = 0.5


class JaxA2C:
    """`N` learners.

    Args:
        weights: Of each layer the weight (N, in, out) and the bias (N, out).
        goals: (N, 2).
        settings: Of every learner.
        at_once: Learners of one call, which divides `N`; None is all.
    """

    def __init__(
        self,
        weights: list[np.ndarray],
        goals: np.ndarray,
        settings: Settings,
        *,
        at_once: int | None = None,
    ) -> None:
        self.jax, self.settings = peer("jax"), settings
        size = at_once or len(goals)
        self.parts = [slice(first, first + size) for first in range(0, len(goals), size)]
        self.goals = [self.jax.numpy.asarray(goals[part], dtype="int32") for part in self.parts]
        self.states = [self._begin([weight[part] for weight in weights]) for part in self.parts]
        self.key = self.jax.random.key(0)
        self._learn_all = self.jax.jit(self.jax.vmap(self._learn))

    def learn(self) -> list[Any]:
        """Let every learner act for an episode of each actor, and improve once.

        Returns:
            Of the learners of each call the first actors' histories: cells (n, T, 2), actions and
            rewards (n, T), policies (n, T, A).
        """
        histories = []
        for call, goals in enumerate(self.goals):
            self.key, draw = self.jax.random.split(self.key)
            keys = self.jax.random.split(draw, len(goals))
            self.states[call], history = self._learn_all(self.states[call], keys, goals)
            histories.append(history)
        done: list[Any] = self.jax.block_until_ready(histories)
        return done

    def gradients(self, *episode: np.ndarray) -> list[np.ndarray]:
        """Of every learner, clipped; by cells (N, T + 1, K, 2), actions and rewards (N, T, K)."""
        of_all = self.jax.vmap(self._gradient)
        found = [
            of_all(state[0], *(self.jax.numpy.asarray(field[part]) for field in episode))
            for state, part in zip(self.states, self.parts, strict=True)
        ]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _begin(self, weights: list[np.ndarray]) -> Any:
        """Weights, the two means of Adam, and its steps so far."""
        jnp = self.jax.numpy
        parameters = [jnp.asarray(weight) for weight in weights]
        first, second = ([jnp.zeros_like(weight) for weight in parameters] for _ in BETAS)
        return parameters, first, second, jnp.zeros(len(weights[0]))

    def _learn(self, state: Any, key: Any, goal: Any) -> Any:
        weights, first, second, count = state
        cells, (actions, rewards, policies) = self._episode(weights, key, goal)
        gradient = self._gradient(weights, cells, actions, rewards)
        count, (b1, b2) = count + 1, BETAS
        first = [b1 * m + (1 - b1) * g for m, g in zip(first, gradient, strict=True)]
        second = [b2 * v + (1 - b2) * g * g for v, g in zip(second, gradient, strict=True)]
        rate = self.settings.learning_rate / (1 - b1**count)
        weights = [
            w - rate * m / (self.jax.numpy.sqrt(v / (1 - b2**count)) + EPS)
            for w, m, v in zip(weights, first, second, strict=True)
        ]
        history = cells[:-1, 0], actions[:, 0], rewards[:, 0], policies[:, 0]
        return (weights, first, second, count), history

    def _episode(self, weights: Any, key: Any, goal: Any) -> Any:
        """Cells (T + 1, K, 2), then actions, rewards (T, K) and policies (T, K, A)."""
        jax, jnp, num_actors = self.jax, self.jax.numpy, self.settings.num_actors
        moves = jnp.asarray(STEPS, "int32")

        def step(cell: Any, uniform: Any) -> Any:
            policy = jax.nn.softmax(self._outputs(weights, cell)[0])
            action = (uniform[:, None] >= jnp.cumsum(policy, axis=1)[:, :-1]).sum(1, dtype="int32")
            end = jnp.clip(cell + moves[action], 0, SIZE - 1)
            reward = (end == goal).all(axis=1).astype("float32")
            return end, (end, action, reward, policy)

        start = jnp.full((num_actors, 2), SIZE // 2, "int32")
        uniform = jax.random.uniform(key, (EPISODE_LENGTH, num_actors))
        _, (ends, *rest) = jax.lax.scan(step, start, uniform)
        return jnp.concatenate((start[None], ends)), rest

    def _gradient(self, weights: Any, cells: Any, actions: Any, rewards: Any) -> Any:
        jnp = self.jax.numpy
        gradient = self.jax.grad(self._loss)(weights, cells, actions, rewards)
        norm = jnp.sqrt(sum((part * part).sum() for part in gradient))
        scale = jnp.minimum(1.0, self.settings.max_grad_norm / jnp.maximum(norm, 1e-8))
        return [part * scale for part in gradient]

    def _loss(self, weights: Any, cells: Any, actions: Any, rewards: Any) -> Any:
        jax, jnp, settings = self.jax, self.jax.numpy, self.settings
        logits, values = self._outputs(weights, cells)
        known = jax.lax.stop_gradient(values)
        surprises = rewards + settings.gamma * known[1:] - known[:-1]
        decay = settings.gamma * settings.gae_lambda

        def back(after: Any, surprise: Any) -> Any:
            advantage = surprise + decay * after
            return advantage, advantage

        zero = jnp.zeros_like(surprises[0])
        _, advantages = jax.lax.scan(back, zero, surprises, reverse=True)
        log_policy = jax.nn.log_softmax(logits[:-1])
        taken = jnp.take_along_axis(log_policy, actions[..., None], axis=2)[..., 0]
        entropy = -(jnp.exp(log_policy) * log_policy).sum(axis=2)
        error = values[:-1] - (advantages + known[:-1])
        losses = -taken * advantages - settings.entropy * entropy
        return (losses + settings.value_weight * error**2).mean()

    def _outputs(self, weights: Any, cells: Any) -> Any:
        """Logits (..., A) and values (...) of cells (..., 2)."""
        one_hot = partial(self.jax.nn.one_hot, num_classes=SIZE)
        x = self.jax.numpy.concatenate((one_hot(cells[..., 0]), one_hot(cells[..., 1])), axis=-1)
        *hidden, last = zip(weights[::2], weights[1::2], strict=True)
        for weight, bias in hidden:
            x = self.jax.numpy.tanh(x @ weight + bias)
        x = x @ last[0] + last[1]
        return x[..., :-1], x[..., -1]
