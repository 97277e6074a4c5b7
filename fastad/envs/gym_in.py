"""Any Gymnasium environment as a family of tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
from torch import Generator, Tensor

from fastad.base.errors import UserError
from fastad.envs.family import EnvSpec, Split, TaskFamily
from fastad.envs.gym_batch import GymBatch
from fastad.envs.gym_make import Maker, find_maker
from fastad.envs.gym_spaces import Actions, Observations
from fastad.envs.gym_tasks import Distribution, Listed, distribution_of, read_in

# The options of fastad, with their defaults; every other one is the environment's own.
OPTIONS: dict[str, Any] = {
    "tasks": None,
    "episode_length": None,
    "observe": "",
    "deterministic": True,
}
TRIED_STEPS = 50


@dataclass(frozen=True, init=False)
class Gym(TaskFamily):
    """An environment of Gymnasium, by its ID or made by a class or function of one's own.

    Whatever fastad has no option for is an argument of the environment, or an attribute that its
    constructor sets. Tasks differ in such arguments, or in the seed of every reset.

    Args:
        env: `gym:ID`, `package.module:callable`, or in Python a class or function that returns a
            `gymnasium.Env`.
        tasks: How tasks differ. A list of arguments, [{size: 5}, {size: 6}]. Ranges to draw from,
            {length: [0.3, 1.5]}, whole numbers where both ends are. The word seeds: a task is the
            seed of each reset. Or a .yaml or .json file with a list or ranges.
        episode_length: Steps after which an episode is truncated (default: as Gymnasium has it).
        observe: Keys of a Dict to keep, such as image,direction (default: all).
        deterministic: Whether the same seed and actions must lead to the same; false waives it.
        **arguments: Of the environment, in every task.
    """

    maker: Maker
    options: dict[str, Any]
    arguments: dict[str, Any]

    def __init__(
        self, env: str | Callable[..., gymnasium.Env[Any, Any]], /, **arguments: Any
    ) -> None:
        maker = find_maker(env) if isinstance(env, str) else Maker(_place(env), env)
        options = OPTIONS | {key: arguments.pop(key) for key in OPTIONS if key in arguments}
        _check_options(maker.name, options)
        options["tasks"] = read_in(options["tasks"], f"env={maker.name}")
        for field, value in (("maker", maker), ("options", options), ("arguments", arguments)):
            object.__setattr__(self, field, value)
        self._check_names()

    @property
    def name(self) -> str:  # type: ignore[override]
        """What the environment is called."""
        return self.maker.name

    @cached_property
    def distribution(self) -> Distribution:
        """What tells the tasks apart."""
        return distribution_of(self.options["tasks"], f"env={self.name}")

    @cached_property
    def example(self) -> tuple[gymnasium.Env[Any, Any], Observations, Actions]:
        """One environment, which tells what all are like."""
        env = self.build(self.distribution.few()[0])
        keys = [key.strip() for key in self.options["observe"].split(",") if key.strip()]
        observations = Observations(env.observation_space, keys, self.name)
        return env, observations, Actions(env.action_space, self.name)

    @property
    def observations(self) -> Observations:
        """From what the environments observe to tensors."""
        return self.example[1]

    @property
    def actions(self) -> Actions:
        """From tensors to what the environments take."""
        return self.example[2]

    @cached_property
    def episode_length(self) -> int:
        """Steps after which an episode is truncated.

        Raises:
            UserError: If nobody says how many.
        """
        given = self.options["episode_length"]
        if given is not None:
            return int(given)
        specs = (self.maker.registered, self.example[0].spec)
        found = [spec.max_episode_steps for spec in specs if spec and spec.max_episode_steps]
        if found:
            return int(found[0])
        own = getattr(self.example[0].unwrapped, "max_steps", None)
        steps = own if type(own) is int else 200
        raise UserError(
            f"episode_length is needed: {self.name} is registered without a limit, and histories "
            f"hold episodes that end; say after how many steps, such as episode_length={steps}"
        )

    def spec(self) -> EnvSpec:
        """See `TaskFamily.spec`."""
        return EnvSpec(
            self.observations.space, self.actions.space, self.episode_length, fixed_length=False
        )

    def tasks(self) -> Tensor | None:
        """See `TaskFamily.tasks`; without a distribution there is one."""
        return self.distribution.rows()

    def sample(self, num_tasks: int, split: Split, generator: Generator) -> Tensor:
        """See `TaskFamily.sample`."""
        return self.distribution.sample(num_tasks, split, generator)

    def make(self, tasks: Tensor, generator: Generator) -> GymBatch:
        """See `TaskFamily.make`."""
        return GymBatch(self, tasks, generator)

    def build(self, task: Tensor) -> gymnasium.Env[Any, Any]:
        """The environment of one task, (K,).

        Raises:
            UserError: If it cannot be made.
        """
        return self.maker({**self.arguments, **self.distribution.arguments(task)})

    def words(self, task: Tensor) -> str:
        """What a task is, to be read."""
        seed = self.distribution.seed(task)
        told = {"seed": seed} if seed is not None else self.distribution.arguments(task)
        words = (
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value!r}"
            for key, value in told.items()
        )  # fmt: skip
        return f"task ({', '.join(words)})"

    def check(self) -> None:
        """Refuse, before hours are spent, what only shows when environments are made and run.

        Raises:
            UserError: If there is but one task, one is listed twice, one of some cannot be made or
                is of other spaces, what it returns does not fit, or it does not follow from its
                seed.
        """
        if self.options["tasks"] is None:
            raise UserError(
                f"tasks is needed: {self.name} alone is one task, and learning in context takes "
                "many: those to learn from, and others to be tried on. Say how they differ, for "
                f"example {self.hint()}; see `fastad envs {self.name}`"
            )
        self.distribution.check(f"env={self.name}")
        tasks = self.distribution.few().unique(dim=0)
        first, second = (self._try(tasks, Generator().manual_seed(0)) for _ in range(2))
        if self.options["deterministic"]:
            self._compare(tasks, first, second)

    def hint(self) -> str:
        """Options that would give this very environment tasks."""
        try:
            numbers = {k: v for k, v in self.maker.numbers().items() if v > 0}
        except UserError:  # it cannot be made without arguments
            numbers = {}
        if not numbers:
            return "tasks=seeds"
        ranges = [f"{key}: [{value / 2:.4g}, {value * 1.5:.4g}]" for key, value in numbers.items()]
        return f"'tasks={{{', '.join(ranges[:2])}}}'"

    def _try(self, tasks: Tensor, generator: Generator) -> list[tuple[Tensor, ...]]:
        """What some random actions lead to, from the first observation on."""
        env = self.make(tasks, generator)
        num_steps = min(TRIED_STEPS, self.episode_length + 1)
        actions = [env.actions.random(len(tasks), generator) for _ in range(num_steps)]
        return [(env.reset(),), *(env.step(action) for action in actions)]

    def _compare(
        self, tasks: Tensor, first: list[tuple[Tensor, ...]], second: list[tuple[Tensor, ...]]
    ) -> None:
        """Refuse tasks that went one way, and then another."""
        names = ("observation", "reward", "terminated", "truncated")
        for step, results in enumerate(zip(first, second, strict=True)):
            for name, one, other in zip(names, *results, strict=False):
                same = (one == other).reshape(len(tasks), -1).all(dim=1)
                if not same.all():
                    which = self.words(tasks[int(same.long().argmin())])
                    raise UserError(
                        f"env={self.name} is not deterministic: {which}, made twice, reset with "
                        f"the same seed and given the same actions, has another {name} at step "
                        f"{step}. Draw everything random from self.np_random, which reset(seed=) "
                        "seeds; or waive it with deterministic=false: histories cannot be "
                        "collected again then, byte for byte"
                    )

    def _check_names(self) -> None:
        """Refuse what stands both in an option and in the tasks."""
        tasks = self.options["tasks"]
        named = set(tasks) if isinstance(tasks, dict) else set()
        if isinstance(self.distribution, Listed):
            named = {key for entry in self.distribution.entries for key in entry}
        for key in sorted(named & self.arguments.keys()):
            raise UserError(
                f"env={self.name}: {key} is an option, {key}={self.arguments[key]!r}, and differs "
                "between tasks; keep one"
            )
        for key in sorted(named & OPTIONS.keys()):
            raise UserError(f"env={self.name}: tasks cannot differ in {key}; it is of all of them")


def _place(create: Callable[..., Any]) -> str:
    """What a class or function is called, and where it is; a partial one is called by its kind."""
    named = create if hasattr(create, "__qualname__") else type(create)
    return f"{named.__module__}:{named.__qualname__}"


def _check_options(name: str, options: dict[str, Any]) -> None:
    length, observe, flag = (options[key] for key in ("episode_length", "observe", "deterministic"))
    if length is not None and (type(length) is not int or length < 1):
        raise UserError(f"episode_length={length!r} of {name} must be a whole number, at least 1")
    if isinstance(observe, list) and all(isinstance(key, str) for key in observe):
        options["observe"] = observe = ",".join(observe)
    if not isinstance(observe, str):
        raise UserError(f"observe={observe!r} of {name} must be keys, such as image,direction")
    if not isinstance(flag, bool):
        raise UserError(f"deterministic={flag!r} of {name} must be true or false")
