"""The batched environment: N tasks of one family, advanced together in plain torch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.actions import distribution_over
from fastad.base.errors import UserError
from fastad.envs.family import TaskFamily


@dataclass(frozen=True)
class Rules:
    """An environment as a finite MDP, for tables and planners.

    The MDP's state is what is observed, numbered, and the phase: how many steps of the episode
    have given a reward other than 0 so far, no more than `num_phases` - 1.
    """

    num_states: int  # `S`, the distinct observations
    state: Callable[[Tensor], Tensor]  # numbers observations (..., *shape): (...) int64, below S
    num_phases: int = 1  # 1: the observation alone is Markov
    # Gives the state that every action leads to from every state, (1 or N, S, A) int64; N where
    # it depends on the task. None where that is random or unknown.
    transitions: Callable[[], Tensor] | None = None

    @classmethod
    def of(
        cls,
        space: spaces.Space[Any],
        *,
        num_phases: int = 1,
        transitions: Callable[[], Tensor] | None = None,
    ) -> "Rules":
        """Number the observations of a Discrete or MultiDiscrete space, in row-major order."""
        if isinstance(space, spaces.Discrete):
            return cls(int(space.n), Tensor.long, num_phases, transitions)
        assert isinstance(space, spaces.MultiDiscrete), f"{space} cannot be numbered"
        sizes = [int(size) for size in space.nvec]

        def state(observation: Tensor) -> Tensor:
            index, *others = observation.unbind(-1)
            for size, column in zip(sizes[1:], others, strict=True):
                index = torch.add(column, index, alpha=size)
            return index

        return cls(math.prod(sizes), state, num_phases, transitions)


class BatchedEnv(ABC):
    """`N` tasks of one family as one state machine, on any device, auto-resetting.

    An environment that finishes an episode in `step` is reset within that same step: the
    observation returned is the first of the next episode, and `final_observation` holds where
    the step really ended. What cannot be reset so is `waiting` in the next step. Neither `reset`
    nor `step` waits for the device, and after `untrack` they can be captured in a CUDA graph. What
    they return is never changed afterwards, and not to be written to: where nothing terminates,
    `terminated` is the same tensor at every step.

    What is known of the tasks beyond that is optional: None where it is not.

    Args:
        family: What the tasks have in common.
        tasks: (N, K), a row each, on the device that everything shall live on.
        generator: The only source of randomness, on the same device.

    Raises:
        UserError: If the two are on different kinds of device.
    """

    final_observation: Tensor  # (N, ...), there once a step was taken
    # (N,) bool, the environments whose coming step does nothing but begin their next episode,
    # whatever the action, see `VectorIn`: its reward is 0, nothing ends in it, and `interact` does
    # not count it. None where there are none, as nearly everywhere.
    waiting: Tensor | None = None
    on_host: ClassVar[bool] = False  # whether it waits for the host, and no CUDA graph can hold it

    def __init__(self, family: TaskFamily, tasks: Tensor, generator: torch.Generator) -> None:
        if generator.device.type != tasks.device.type:
            raise UserError(
                f"generator is on {generator.device}, tasks are on {tasks.device}; "
                f"use torch.Generator({tasks.device.type!r})"
            )
        self.family = family
        self.tasks = tasks
        self.generator = generator
        spec = family.spec()
        self.observation_space = spec.observation_space
        self.action_space = spec.action_space
        self.actions = distribution_over(spec.action_space)
        self.episode_length = spec.episode_length
        self.fixed_length = spec.fixed_length

    @property
    def num_envs(self) -> int:
        """`N`, the environments advanced together."""
        return self.tasks.shape[0]

    @property
    def device(self) -> torch.device:
        """Where state, observations and rewards live."""
        return self.tasks.device

    @property
    def num_actions(self) -> int:
        """The size of the action space, which has to be discrete."""
        assert isinstance(self.action_space, spaces.Discrete)
        return int(self.action_space.n)

    @property
    def is_discrete(self) -> bool:
        """Whether an action is one of several, numbered from 0."""
        return isinstance(self.action_space, spaces.Discrete)

    @abstractmethod
    def reset(self) -> Tensor:
        """Begin a new episode everywhere; returns observations (N, ...)."""

    @abstractmethod
    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Advance every environment by one step.

        Args:
            action: (N,) int64, (N, d) int64 of a MultiDiscrete space or (N, d) float32 of a Box.

        Returns:
            Observation (N, ...), after auto-reset; reward (N,) float32; terminated and
            truncated (N,) bool.
        """

    def attend_only(self, rows: slice) -> None:  # noqa: B027, most step all at once
        """From the next reset on, nobody looks at other environments: they need not be stepped.

        What these experience stays as it is.
        """

    def untrack(self) -> None:  # noqa: B027, there need be nothing on the host
        """From the next reset on, keep all state on the device alone and update it in place.

        Every step performs the same operations on the same memory then, and can be captured in a
        CUDA graph, which knows nothing of what the host counts.
        """

    def optimal_return(self) -> Tensor | None:
        """Expected return per episode of an optimal policy that knows its task, (N,) float32."""
        return None

    def expert(self, observation: Tensor, phase: Tensor | None = None) -> Tensor | None:
        """An optimal policy that knows its task, uniform over the best actions.

        Args:
            observation: (N, ...) of the present step, or of another where `phase` is given.
            phase: (N,) int64, how often the episode had paid by then, see `Rules`.

        Returns:
            A policy (N, A) float32, see `fastad.actions`: of Discrete actions, probabilities.
        """
        return None

    def rules(self) -> Rules | None:
        """The finite MDP behind the observations."""
        return None

    def regret(self, action: Tensor) -> Tensor | None:
        """Expected reward missed, of a bandit: by pulling the arms `action`, (N, T); (N,) float32.

        Pseudo-regret, the sum over the T pulls.
        """
        return None

    def render_text(self, observation: Tensor, index: int) -> str:
        """Environment `index`, where `observation` (N, ...) is seen, as lines of text."""
        return f"{observation[index].tolist()} in task {self.tasks[index].tolist()}\n"

    def render_picture(self, observation: Tensor, index: int) -> np.ndarray:
        """Environment `index`, where `observation` (N, ...) is seen; (height, width, 3) uint8."""
        raise UserError(f"{self.family.name} has no picture; use render_mode='ansi'")


def uniform_over(chosen: Tensor) -> Tensor:
    """The uniform distribution over the true entries of each row, (..., A) float32.

    Args:
        chosen: (..., A) bool with at least one true entry in each row.
    """
    weights = chosen.float()
    return weights.div_(weights.sum(dim=-1, keepdim=True))
