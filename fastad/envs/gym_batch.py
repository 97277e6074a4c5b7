"""Gymnasium environments as a batch: Python environments of this process, stepped in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv, Rules
from fastad.envs.gym_spaces import WRAP, finite_rewards

if TYPE_CHECKING:
    from fastad.envs.gym_in import Gym

MAX_SEED = 2**31
MAX_STATES = 10_000  # that a learner may have a table of


class GymBatch(BatchedEnv):
    """`N` environments in this process, made at the first reset and stepped one after another.

    Every reset of the batch draws a seed per environment from the generator; within it, an
    environment goes on drawing from its own.
    """

    on_host = True
    family: Gym

    def __init__(self, family: Gym, tasks: Tensor, generator: Generator) -> None:
        super().__init__(family, tasks, generator)
        self._rows = tasks.cpu()
        self._seeds = [family.distribution.seed(row) for row in self._rows]
        self._envs: list[gymnasium.Env[Any, Any]] = []
        self._attended = slice(None)  # whose environments these are, and rows, seeds and ages
        self._age = np.zeros(len(tasks), np.int64)  # steps since the episode began
        self._steps = 0

    def reset(self) -> Tensor:
        """See `BatchedEnv.reset`."""
        if not self._envs:
            self._envs = self._build()
        shape = (self.num_envs,)
        drawn = torch.randint(
            MAX_SEED, shape, generator=self.generator, device=self.generator.device
        )
        first = [
            self._reset(index, seed if self._seeds[index] is None else self._seeds[index])
            for index, seed in enumerate(drawn[self._attended].tolist())
        ]
        self._age[:] = self._steps = 0
        return self._among_all(self._stored(first))

    def attend_only(self, rows: slice) -> None:
        """See `BatchedEnv.attend_only`: others are never made."""
        self._attended, self._envs = rows, []
        self._rows, self._seeds, self._age = self._rows[rows], self._seeds[rows], self._age[rows]

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `BatchedEnv.step`."""
        self._steps += 1
        actions = self.family.actions.of_each(action[self._attended])
        results = [
            self._checked(index, env.step(each))
            for index, (env, each) in enumerate(zip(self._envs, actions, strict=True))
        ]
        observations, rewards, terminated, truncated = zip(*results, strict=True)
        self._age += 1
        over = np.array(terminated, np.bool_)
        cut = np.array(truncated, np.bool_) | (self._age >= self.episode_length)
        ended = np.flatnonzero(over | cut)
        observation = self._stored(observations)
        self.final_observation = self._among_all(observation)
        if len(ended) > 0:
            first = [self._reset(index, self._seeds[index]) for index in ended.tolist()]
            rows = torch.from_numpy(ended).to(self.device)
            observation = observation.index_copy(0, rows, self._stored(first, ended.tolist()))
            self._age[ended] = 0
        reward = torch.from_numpy(finite_rewards(rewards, self._where))
        flags = (torch.from_numpy(flag).to(self.device) for flag in (over, cut))
        fields = (observation, reward.to(self.device), *flags)
        return tuple(map(self._among_all, fields))  # type: ignore[return-value]

    def rules(self) -> Rules | None:
        """See `BatchedEnv.rules`: numbers what is observed, if it is few things, and says no more.

        So tables can learn; whether the observation alone is Markov, nobody knows.
        """
        space, num_states = self.observation_space, 0
        if isinstance(space, spaces.Discrete) and space.start == 0:
            num_states = int(space.n)
        elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            num_states = math.prod(space.nvec.tolist())
        return Rules.of(space) if 0 < num_states <= MAX_STATES else None

    def untrack(self) -> None:
        """Python environments are on the host, and stay there."""
        raise AssertionError("no CUDA graph can hold Python environments")

    def _build(self) -> list[gymnasium.Env[Any, Any]]:
        """Make every environment, all of the same spaces."""
        example = self.family.example[0]
        envs = []
        for row in self._rows:
            env = self.family.build(row)
            for name in ("observation_space", "action_space"):
                ours, theirs = getattr(example, name), getattr(env, name)
                if ours != theirs:
                    raise UserError(
                        f"env={self.family.name}: {name} is {theirs} in {self.family.words(row)} "
                        f"and {ours} in others; tasks must be alike in it: vary something else, "
                        "or name a callable that pads it, as --env package.module:callable"
                    )
            envs.append(env)
        if len({id(env) for env in envs}) < len(envs):
            raise UserError(
                f"env={self.family.name} returns the same environment again; it must make a new one"
            )
        return envs

    def _reset(self, index: int, seed: int | None) -> Any:
        result = self._envs[index].reset(seed=seed)
        if not isinstance(result, tuple) or len(result) != 2:
            raise UserError(
                f"{self._where(index)}: reset returns {type(result).__name__}, not (observation, "
                f"info), as Gymnasium has it; {WRAP}"
            )
        return result[0]

    def _checked(self, index: int, result: Any) -> tuple[Any, Any, Any, Any]:
        if not isinstance(result, tuple) or len(result) != 5:
            raise UserError(
                f"{self._where(index)}: step does not return (observation, reward, terminated, "
                f"truncated, info), as Gymnasium has it; {WRAP}"
            )
        return result[:4]

    def _stored(self, observations: Sequence[Any], rows: Sequence[int] | None = None) -> Tensor:
        """Observations as tensors; `rows` are their environments, if not all."""

        def where(index: int) -> str:
            return self._where(index if rows is None else rows[index])

        return self.family.observations.of_each(observations, where).to(self.device)

    def _among_all(self, values: Tensor) -> Tensor:
        """The same with something for those that nobody attends to."""
        if self._attended == slice(None):
            return values
        every = values.new_zeros((self.num_envs, *values.shape[1:]))
        every[self._attended] = values
        return every

    def _where(self, index: int) -> str:
        which = self.family.words(self._rows[index])
        return f"env={self.family.name}, {which}, step {self._steps}"
