"""What every source is: N independent learners, advanced together as batched tensors."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastad.acting.interact import NoiseLabels, Transition, interact
from fastad.actions import distribution_over
from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.sources.visited import Visited


class Source(ABC):
    """`N` learners, one per environment, that share nothing but the code.

    A source is an `Agent` (fastad.acting.interact): `act` returns the exact distribution that the
    action was drawn from. Subclasses take their own options as keyword-only arguments.

    Args:
        env: Tells the number of learners, actions and states, what space they are in, and what
            `knows` says.
        num_episodes: The length of the histories, for schedules.
        generator: The only source of randomness, on the environment's device.

    Raises:
        UserError: If the environment does not suit the source or an option is out of range.
    """

    name: ClassVar[str]
    # What the source is told beyond what it experiences; shown wherever its results are shown.
    # Where the environment tells it more, constructors add to it. Options are no part of it: they
    # are the user's, and stand beside the source's name.
    knows: str = ""
    # Episodes that a learner plays while its history gains one: more where it has several actors.
    episodes_per_episode: int = 1
    # Whether actions in a box are squashed to it, see `DiagonalGaussian`, or clipped.
    squashes: bool = False
    # Whether `policy` is what actions are drawn from; if not, histories have none.
    has_policy: bool = True
    # Whether it replaces `run`: nobody can act in its stead then, nor run it half-way.
    owns_loop: ClassVar[bool] = False
    # By default: enough to be quick, little enough to lose in a crash.
    histories_per_shard: ClassVar[int] = 1024
    # Steps of a history before the first that learning can have changed, where that is many.
    steps_before_learning: int = 0
    # Of all learners together, those not yielded yet, where `run` is replaced.
    steps_taken: int = 0

    def __init__(self, env: BatchedEnv, *, num_episodes: int, generator: torch.Generator) -> None:
        if num_episodes < 1:
            raise UserError(f"num_episodes={num_episodes} must be at least 1")
        self.num_learners = env.num_envs
        self.actions = distribution_over(env.action_space, squash=self.squashes)
        self.num_actions = self.actions.num_params  # `A`, of Discrete actions
        self.num_episodes = num_episodes
        self.generator = generator
        self.device = env.device

    def is_told(self, fact: str) -> None:
        """Add to what the source knows."""
        self.knows = f"{self.knows}; {fact}" if self.knows else fact

    @classmethod
    @abstractmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Whether the source can learn tasks of this environment."""

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The keyword arguments of a user's choice, with their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(cls).parameters.items()
            if name not in ("env", "num_episodes", "generator")
        }

    @abstractmethod
    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions (N, ...) and return them with their policy, (N, A) float32."""

    @abstractmethod
    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Learn from one step of every environment."""

    @abstractmethod
    def would_act(self, visited: Visited) -> Tensor:
        """The distributions that the learners would act by, as they are now, in earlier states.

        Nothing is learned, drawn or changed by it.

        Returns:
            (N, T, A) float32.
        """

    def run(
        self,
        env: BatchedEnv,
        *,
        num_steps: int,
        block_steps: int,
        generator: torch.Generator,
        action_noise: float = 0.0,
        noise_labels: NoiseLabels = "clean",
    ) -> Iterator[Transition]:
        """Learn from scratch in `env`, and yield what happens, block by block.

        By default `interact`, which asks for one action after another. A source with a loop of its
        own replaces this and sets `owns_loop`. While it works it may yield blocks of no steps, with
        `steps_taken` telling how far it is; by its first block of some, it has learnt all.

        Args:
            env: That the source was made for; reset here.
            num_steps: Steps per learner in all.
            block_steps: Steps per yielded block.
            generator: Draws the action noise.
            action_noise: See `interact`.
            noise_labels: See `interact`.

        Yields:
            Blocks with fields of shape (N, steps, ...), which together are `num_steps` long.
        """
        return interact(
            env,
            self,
            num_steps=num_steps,
            block_steps=block_steps,
            generator=generator,
            action_noise=action_noise,
            noise_labels=noise_labels,
        )

    def draw(self, policy: Tensor) -> Tensor:
        """Draw one action (N, ...) per learner from `policy`, (N, A)."""
        return self.actions.draw(policy, self.generator)


def annealed(step: int, decay_steps: float, final: float) -> float:
    """What falls linearly from 1 at `step` 0 to `final` at `decay_steps`, and stays there."""
    return final + max(0.0, 1 - step / decay_steps) * (1 - final)


def number(field: str, value: object, *, low: float, high: float = float("inf")) -> float:
    """Check a numeric option of a source.

    Returns:
        The value as a float within [low, high].

    Raises:
        UserError: If it is no number or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        limits = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UserError(f"{field}={value!r} must be a number {limits}")
    return float(value)


def whole_number(field: str, value: object, *, low: int) -> int:
    """Check an integer option of a source.

    Raises:
        UserError: If it is no integer or below `low`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{field}={value!r} must be a whole number, at least {low}")
    return value


def switch(field: str, value: object) -> bool:
    """Check an option of a source that is on or off.

    Raises:
        UserError: If it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise UserError(f"{field}={value!r} must be true or false")
    return value
