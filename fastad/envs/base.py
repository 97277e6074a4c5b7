"""The batched environment: N tasks of one family, advanced together in plain torch."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class BatchedEnv(ABC):
    """`N` tasks of one family as one state machine, on any device, auto-resetting.

    A task is a row of `tasks`, (N, K): what distinguishes one MDP of the family from another.
    An environment that finishes an episode in `step` is reset within that same step: the
    observation returned is the first of the next episode, and `final_observation` holds where
    the step really ended.

    Args:
        tasks: (N, K) on the device that everything shall live on.
        generator: The only source of randomness, on the same device.

    Raises:
        UserError: If the two are on different kinds of device.
    """

    name: ClassVar[str]
    observation_space: spaces.Space[Any]  # of one environment
    action_space: spaces.Discrete
    episode_length: int  # an episode never lasts longer
    fixed_length: bool = True  # whether every episode lasts exactly `episode_length` steps
    # The MDP's state beyond the observation is the number of rewards collected in this episode,
    # capped at num_phases - 1 (1: the observation alone is Markov).
    num_phases: int = 1
    final_observation: Tensor  # (N, ...)

    def __init__(self, tasks: Tensor, *, generator: torch.Generator) -> None:
        if generator.device.type != tasks.device.type:
            raise UserError(
                f"generator is on {generator.device}, tasks are on {tasks.device}; "
                f"use torch.Generator({tasks.device.type!r})"
            )
        self.tasks = tasks
        self.generator = generator

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
        """`A`, the size of the discrete action space."""
        return int(self.action_space.n)

    @property
    def num_states(self) -> int:
        """`S`, the distinct observations, for tables that are indexed by `state`.

        Raises:
            UserError: If observations are not discrete.
        """
        return math.prod(self._observation_sizes())

    def state(self, observation: Tensor) -> Tensor:
        """Number the observations (..., *shape) from 0 to S - 1, in row-major order.

        Returns:
            (...) int64.

        Raises:
            UserError: If observations are not discrete.
        """
        sizes = self._observation_sizes()
        if isinstance(self.observation_space, spaces.Discrete):
            return observation.long()
        index = torch.zeros_like(observation[..., 0], dtype=torch.int64)
        for column, size in enumerate(sizes):
            index = index * size + observation[..., column]
        return index

    def transitions(self) -> Tensor | None:
        """The state that every action leads to from every state, (1 or N, S, A) int64.

        N where it depends on the task. None where that is random, unknown or has no states.
        """
        return None

    def _observation_sizes(self) -> list[int]:
        space = self.observation_space
        if isinstance(space, spaces.Discrete) and space.start == 0:
            return [int(space.n)]
        if isinstance(space, spaces.MultiDiscrete) and not space.start.any():
            return [int(size) for size in space.nvec]
        raise UserError(
            f"observations of {self.name} are {space}, which tables cannot be indexed by; "
            "use a source with a network"
        )

    @classmethod
    @abstractmethod
    def enumerate_tasks(cls, **kwargs: Any) -> Tensor | None:
        """Every task of the family, (M, K), in a fixed order; None if there are infinitely many.

        Args:
            **kwargs: The environment's own keyword arguments.
        """

    @classmethod
    def sample_tasks(
        cls, num_tasks: int, *, split: Split, generator: torch.Generator, **kwargs: Any
    ) -> Tensor:
        """Draw tasks (num_tasks, K) of a family that cannot be enumerated.

        `split` matters where test tasks are distributed differently; validation tasks are
        distributed as train tasks are.
        """
        raise TypeError(f"{cls.__name__} enumerates its tasks; choose from enumerate_tasks()")

    @classmethod
    def task_cells(cls, tasks: Tensor, **kwargs: Any) -> Tensor | None:
        """The grid cells that each task is made of, (M, cells) int64, to hold out by cell.

        None where tasks have no cells.

        Args:
            tasks: (M, K).
            **kwargs: The environment's own keyword arguments.
        """
        return None

    @abstractmethod
    def reset(self) -> Tensor:
        """Begin a new episode everywhere; returns observations (N, ...)."""

    @abstractmethod
    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Advance every environment by one step.

        Args:
            action: (N,) int64.

        Returns:
            Observation (N, ...), after auto-reset; reward (N,) float32; terminated and
            truncated (N,) bool.
        """

    @abstractmethod
    def optimal_return(self) -> Tensor:
        """Expected return per episode of an optimal policy that knows its task, (N,) float32."""
