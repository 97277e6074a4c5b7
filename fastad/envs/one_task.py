"""One task of a family as a Gymnasium environment, for learners from outside."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.envs.family import TaskFamily


class OneTask(gymnasium.Env[Any, Any]):
    """A batched environment of one task, as its agents see it.

    Args:
        family: Of the task.
        task: (K,), a row.
    """

    def __init__(self, family: TaskFamily, task: Tensor) -> None:
        self._generator = torch.Generator()
        self._env = family.make(task[None].cpu(), self._generator)
        self.observation_space = seen_space(family)
        self.action_space = self._env.action_space
        # (1, ...), as histories hold it: what has just been returned; and, where that was the last
        # of an episode, the first of the next.
        self.stored: Tensor
        self._first: Tensor | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self._generator.manual_seed(seed)
            self._first = None
        self.stored = self._env.reset() if self._first is None else self._first
        self._first = None
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; what is observed at the end of an episode is its true end."""
        actions = torch.as_tensor(np.asarray(action)[None], dtype=self._env.actions.dtype)
        following, reward, terminated, truncated = self._env.step(actions)
        is_over = bool(terminated) or bool(truncated)
        self._first = following if is_over else None
        self.stored = self._env.final_observation if is_over else following
        return self._seen(), float(reward), bool(terminated), bool(truncated), {}

    def _seen(self) -> Any:
        return seen(self._env.family, self.stored)[0]


def seen_space(family: TaskFamily) -> spaces.Space[Any]:
    """Of what agents see."""
    spec = family.spec()
    return spec.observation_space if spec.shown_space is None else spec.shown_space


def seen(family: TaskFamily, stored: Tensor) -> np.ndarray:
    """What agents see where `stored` (N, ...) is what histories hold, (N, ...)."""
    return family.show(stored).cpu().numpy().copy()
