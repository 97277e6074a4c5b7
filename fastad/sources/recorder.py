"""A Gymnasium environment that writes down what happens in it."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.envs.one_task import OneTask


class EnoughError(BaseException):
    """Every step of the history is there: ends a loop that would go on."""


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Writes every step of an environment into a history, until that is full.

    It has to stand below whatever resets the environment, changes rewards or takes the end of an
    episode for that of a task.

    Args:
        env: To be recorded.
        history: One history's fields, (T, ...), to be filled.
        told: Called after every step with how many there are.
    """

    def __init__(self, env: OneTask, history: Transition, *, told: Callable[[int], None]) -> None:
        super().__init__(env)
        self.acted_by: Callable[[], Tensor] | None = None  # gives the policy of the coming action
        self.num_steps = 0
        self._task, self._history, self._told = env, history, told
        self._is_over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`; refused within an episode."""
        if not self._is_over and self.num_steps > 0:
            raise UserError(
                f"the episode was reset at step {self.num_steps}, where it had not ended; a "
                "history holds whole episodes: use a source that lets them end"
            )
        self._is_over = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        history, index = self._history, self.num_steps
        if index == len(history.reward):
            raise EnoughError
        if isinstance(self.action_space, gymnasium.spaces.Box):
            # Scaling to the box may round to beyond it.
            action = np.clip(action, self.action_space.low, self.action_space.high)
        history.observation[index] = self._task.stored[0]
        history.action[index] = torch.as_tensor(action)
        if self.acted_by is not None:
            with torch.no_grad():
                history.policy[index] = self.acted_by()
        observation, reward, terminated, truncated, info = self.env.step(action)
        history.reward[index] = float(reward)
        history.terminated[index], history.truncated[index] = terminated, truncated
        self._is_over = terminated or truncated
        self.num_steps += 1
        self._told(self.num_steps)
        return observation, reward, terminated, truncated, info
