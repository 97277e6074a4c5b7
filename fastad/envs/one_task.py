"""One task of a family as a Gymnasium environment, for learners from outside."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.envs.family import TaskFamily
from fastad.spaces import is_packed, leaves, unpack


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
        batch = seen(self._env.family, self.stored)
        if isinstance(batch, dict):
            return {name: values[0] for name, values in batch.items()}
        return batch[0]


def seen_space(family: TaskFamily) -> spaces.Space[Any]:
    """Of what agents see: of dictionaries and tuples, their leaves by name."""
    spec = family.spec()
    space = spec.observation_space if spec.shown_space is None else spec.shown_space
    if not is_packed(space):
        return space
    return spaces.Dict({leaf.name: leaf.space for leaf in leaves(space)}, sort_keys=False)


def seen(family: TaskFamily, stored: Tensor) -> Any:
    """What agents see where `stored` (N, ...) is what histories hold.

    Returns:
        An array (N, ...), or of a Dict one of each leaf.
    """
    space, shown = family.spec().observation_space, family.show(stored).cpu()
    if not is_packed(space):
        return shown.numpy().copy()
    return {name: values.numpy() for name, values in unpack(space, shown).items()}
