"""A family of tasks: its options, what its environments are like, and which tasks there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gymnasium import spaces
from torch import Generator, Tensor

from fastad.envs.scene import Mark, Scene

if TYPE_CHECKING:
    from fastad.envs.base import BatchedEnv

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class EnvSpec:
    """What all environments of a family have in common."""

    observation_space: spaces.Space[Any]  # of one environment, as histories store what it observes
    action_space: spaces.Space[Any]  # see `distribution_over`
    episode_length: int  # an episode never lasts longer
    fixed_length: bool = True  # whether every episode lasts exactly `episode_length` steps
    # What agents see of an observation, where that is not what is stored: see `TaskFamily.show`.
    shown_space: spaces.Space[Any] | None = None


@dataclass(frozen=True)
class TaskFamily(ABC):
    """Tasks that differ in one row of numbers each, and are alike in everything else.

    A subclass is a frozen dataclass whose fields are the environment's options, each with a
    default: what `--env-options`, `gymnasium.make` and dataset.json know of them follows from
    that. `__post_init__` refuses values that are not possible. A family either lists its `tasks`
    or has infinitely many and draws them, by `sample`.
    """

    name: ClassVar[str]  # as in the registry
    # The arguments of `gymnasium.make` that together say which task, in the order of its columns.
    # The width of each, the option that is its width, or None for any.
    task_arguments: ClassVar[Mapping[str, int | str | None]] = {"task": None}
    # What discrete actions are called, where they mean the same in every task.
    action_names: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def spec(self) -> EnvSpec:
        """Spaces and the length of episodes."""

    @abstractmethod
    def make(self, tasks: Tensor, generator: Generator) -> BatchedEnv:
        """One environment per task, as a batch.

        Args:
            tasks: (N, K), on the device that everything shall live on.
            generator: The only source of randomness, on the same device.

        Raises:
            UserError: If a task is not possible, or the two are on different kinds of device.
        """

    def tasks(self) -> Tensor | None:
        """Every task, (M, K), always in the same order; None if there are infinitely many."""
        return None

    def sample(self, num_tasks: int, split: Split, generator: Generator) -> Tensor:
        """Draw tasks (num_tasks, K) of a family that cannot list them, on the generator's device.

        `split` matters where test tasks are distributed differently; validation tasks are
        distributed as train tasks are.
        """
        raise TypeError(f"{self.name} lists its tasks; choose from tasks()")

    def check(self) -> None:  # noqa: B027, most families know their tasks to be possible
        """Refuse what shows only when environments are made and run: before a collection begins."""

    def show(self, observation: Tensor) -> Tensor:
        """What agents see where `observation` (..., *shape) is stored: (..., *shown shape).

        An element of `EnvSpec.shown_space`, such as the frame that is seen from a pose; without
        that space the observation itself. It is the same for all tasks, on any device, and draws
        nothing. It need not be contiguous.
        """
        return observation

    def auxiliary(self) -> Mapping[str, int] | None:
        """What a model may be trained to tell from what it is shown, and how many codes each has.

        Privileged, as it takes what is stored to know them. None where there is nothing.
        """
        return None

    def auxiliary_targets(self, observation: Tensor) -> dict[str, Tensor]:
        """For each name of `auxiliary` a distribution over its codes, (..., codes) float32.

        Args:
            observation: (..., *shape), as stored.
        """
        raise TypeError(f"{self.name} has no auxiliary targets")

    def words(self, task: Tensor) -> str:
        """What a task (K,) is, to be read: its arguments by name. Privileged, as `marks`."""
        parts, rest = [], task.tolist()
        for name, width in self.task_arguments.items():
            count = width if isinstance(width, int) else len(rest)
            values, rest = [f"{value:.3g}" for value in rest[:count]], rest[count:]
            several = f"({', '.join(values)})"
            parts.append(f"{name} {values[0] if count == 1 else several}")
        return ", ".join(parts)

    def scene(self) -> Scene | None:
        """Where the environments take place, for people to look at; None: there is no drawing."""
        return None

    def marks(self, task: Tensor) -> tuple[Mark, ...]:
        """What lies where in the scene of a task (K,). Privileged: no model is shown it."""
        return ()

    def place(self, observation: Tensor) -> Tensor | None:
        """Where in the scene one is that observes `observation` (..., *shape).

        Returns:
            x and y, (..., 2), or these and a heading in radians, (..., 3); None where that does not
            show in what is stored, or one is nowhere.
        """
        return None

    def cells(self, tasks: Tensor) -> Tensor | None:
        """What each task (M, K) is made of, as numbers, (M, cells) int64, to hold out by.

        None where tasks are not made of anything that they share.
        """
        return None
