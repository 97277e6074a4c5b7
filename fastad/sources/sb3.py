"""Stable-Baselines3's algorithms as sources: each learns task after task, in its own loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import torch
from torch import Tensor

from fastad.acting.interact import NoiseLabels, Transition
from fastad.actions import distribution_over
from fastad.base.errors import UserError
from fastad.base.randomness import restored_randomness, with_own_randomness
from fastad.base.turns import by_turns
from fastad.envs.base import BatchedEnv
from fastad.envs.one_task import OneTask, seen
from fastad.sources.base import Source, whole_number
from fastad.sources.recorder import EnoughError, Recorder
from fastad.sources.sb3_models import build, find_class, options_of, together
from fastad.sources.sb3_policies import Policies, policies_of
from fastad.sources.visited import Visited

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

ASKED_AT_ONCE = 4096  # steps


class StableBaselines(Source):
    """One of Stable-Baselines3's algorithms; each learner calls `learn` on its task.

    Learners learn one after another, and the steps of all are in memory until the last is done: so
    a shard holds few. Every option is the algorithm's own; a value of the form module:NAME stands
    for what is there. Where there are several environments (n_envs), a history is the first one's.

    What is stored with a step is what its action was drawn from: of PPO and A2C the network's
    distribution, of DQN the greedy action mixed with epsilon, of SAC the Gaussian before the
    hyperbolic tangent. For what has no such distribution, as TD3, none is: train with
    --target sampled.

    Args:
        env: Any that the algorithm can act in.
        num_episodes: Length of the histories; the algorithm is told their steps.
        generator: Draws one seed per learner.
        policy: Of the algorithm; by default MlpPolicy, and MultiInputPolicy for dictionaries.
        n_envs: Environments of the same task that each learner acts in.
        action_noise: Standard deviation of noise added to actions scaled to [-1, 1].
        **options: Of the algorithm.
    """

    algorithm: ClassVar[type[BaseAlgorithm]]
    owns_loop = True
    histories_per_shard = 8

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        n_envs: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self._num_actors = whole_number("n_envs", n_envs, low=1)
        self.episodes_per_episode = self._num_actors
        self._options = options
        self._family = env.family
        # Room for every step is as good as more.
        self._room = num_episodes * env.episode_length * self._num_actors + 1
        self._seeds = torch.randint(
            2**31 - 1, (self.num_learners,), generator=generator, device=self.device
        ).tolist()
        self._finished: list[Policies] = []
        with restored_randomness():
            model = self._build(self._environments(env, 0), seed=0)
        policies = policies_of(model)
        self.has_policy = policies is not None
        self.squashes = policies is not None and policies.squashes
        self.actions = distribution_over(env.action_space, squash=self.squashes)
        waits = "n_steps" if hasattr(model, "rollout_buffer") else "learning_starts"
        self.steps_before_learning = getattr(model, waits, 0)
        if hasattr(model, "exploration_schedule"):
            self.is_told("how many steps there will be")

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Whether the algorithm acts in the environment's action space."""
        one = together([OneTask(env.family, env.tasks[0])])
        with restored_randomness():
            return build(cls.algorithm, one, is_whole=False) is not None

    @classmethod
    def options(cls) -> dict[str, Any]:
        """See `Source.options`."""
        return options_of(cls.algorithm) | {"n_envs": 1}

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Nobody asks: see `run`."""
        raise NotImplementedError(f"{self.name} acts in a loop of its own")

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Nobody tells: see `run`."""
        raise NotImplementedError(f"{self.name} learns in a loop of its own")

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
        """Blocks of no steps while learners learn, then those of all; see `Source.run`."""
        assert action_noise == 0.0, "check_noise refuses it"
        num_params = self.actions.num_params if self.has_policy else 0
        history = _blank_history(env, num_steps, num_params)
        for index in range(self.num_learners):
            row = Transition(*(field[index] for field in history))
            learning = by_turns(partial(self._learn, env, index, row))
            for taken in with_own_randomness(learning):
                self.steps_taken = index * num_steps + taken
                yield Transition(*(field[:, :0] for field in history))
        for first in range(0, num_steps, block_steps):
            yield Transition(*(field[:, first : first + block_steps] for field in history))

    def would_act(self, visited: Visited) -> Tensor:
        """By the policies at the end of what `run` did; see `Source.would_act`."""
        policies = []
        with torch.no_grad():
            for learner, stored in zip(self._finished, visited.observation, strict=True):
                parts = stored.split(ASKED_AT_ONCE)
                policies.append(torch.cat([learner.at(seen(self._family, part)) for part in parts]))
        return torch.stack(policies)

    def _learn(
        self, env: BatchedEnv, index: int, row: Transition, tell: Callable[[int], None]
    ) -> None:
        """Let learner `index` learn its task, and fill its history (T, ...)."""
        from stable_baselines3.common.logger import Logger

        first, *others = self._environments(env, index)
        recorder = Recorder(first, row, told=tell)
        model = self._build([recorder, *others], seed=self._seeds[index])
        policies = policies_of(model)
        recorder.acted_by = None if policies is None else policies.acted_by
        model.set_logger(Logger(folder=None, output_formats=[]))
        num_steps = len(row.reward)
        with suppress(EnoughError):
            model.learn(num_steps * self._num_actors, log_interval=None)  # type: ignore[arg-type]
        if recorder.num_steps < num_steps:
            raise UserError(
                f"source {self.name!r} stopped after {recorder.num_steps} of {num_steps} steps; "
                "choose options that let it go on"
            )
        if policies is not None:
            policies.finish()
            self._finished.append(policies)

    def _environments(self, env: BatchedEnv, index: int) -> list[OneTask]:
        """Of the task of one learner."""
        return [OneTask(env.family, env.tasks[index]) for _ in range(self._num_actors)]

    def _build(self, envs: Sequence[gymnasium.Env[Any, Any]], *, seed: int) -> BaseAlgorithm:
        model = build(self.algorithm, together(envs), seed=seed, room=self._room, **self._options)
        if model is None:
            raise UserError(
                f"source {self.name!r} cannot act in {envs[0].action_space}; choose another"
            )
        return model


@cache
def stable_baselines(name: str) -> type[StableBaselines]:
    """The source called `name`, "sb3:PPO" or "sb3:package.module:Class".

    Raises:
        UserError: If there is no such class, or Stable-Baselines3 is missing.
    """
    algorithm = find_class(name)
    about = (inspect.getdoc(algorithm) or "").partition("\n\n")[0].replace("\n", " ")
    doc = f"{about}\n\n{inspect.getdoc(StableBaselines)}"
    return type(
        algorithm.__name__,
        (StableBaselines,),
        {"name": name, "algorithm": algorithm, "__doc__": doc},
    )


def _blank_history(env: BatchedEnv, num_steps: int, num_params: int) -> Transition:
    """Room for what happens to all learners, (N, num_steps, ...)."""
    shape = env.num_envs, num_steps
    first = OneTask(env.family, env.tasks[0])
    first.reset(seed=0)
    return Transition(
        observation=torch.zeros((*shape, *first.stored.shape[1:]), dtype=first.stored.dtype),
        action=torch.zeros((*shape, *env.actions.shape), dtype=env.actions.dtype),
        reward=torch.zeros(shape),
        terminated=torch.zeros(shape, dtype=torch.bool),
        truncated=torch.zeros(shape, dtype=torch.bool),
        policy=torch.zeros((*shape, num_params)),
    )
