"""Gymnasium's vector environments as batched ones, whatever their mode of resetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import Generator, Tensor

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.envs.family import EnvSpec, TaskFamily
from fastad.envs.gym_spaces import WRAP, Actions, Observations, finite_rewards

VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]
MAX_SEED = 2**31


@dataclass(frozen=True)
class _Given(TaskFamily):
    """What the environments of somebody's vector environment have in common."""

    given: EnvSpec
    title: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.title

    def spec(self) -> EnvSpec:
        return self.given

    def make(self, tasks: Tensor, generator: Generator) -> BatchedEnv:
        raise TypeError(f"{self.title} is made already")


class VectorIn(BatchedEnv):
    """A `gymnasium.vector.VectorEnv`, resetting each environment in the step that ends its episode.

    That is what a vector environment in SAME_STEP mode does itself. In DISABLED mode, those that
    ended are reset at once by `reset_mask`. So are they in NEXT_STEP mode by Gymnasium's own
    `SyncVectorEnv` and `AsyncVectorEnv`, which then do not reset them again. Others of that mode
    reset in the step after, which is no step of the environments that do: where all episodes end
    together it is taken at once, else those are `waiting` in it.

    Args:
        vector_env: Whose environments. It belongs to this adapter from here on, and is not closed.
        generator: Draws the seeds of the first resets, one for each environment where it takes
            a list (Gymnasium's own do), else one.
        tasks: (N, K), what tells them apart, on the device that tensors shall be on; by default
            their numbers, on the generator's.
        episode_length: No episode is longer; by default as the environment is registered.
        observe: Keys of a Dict to keep; by default all.
        fixed_length: Whether every episode is of just that length.

    Raises:
        UserError: If a space or the mode is not supported, or nobody says how long episodes are.
    """

    on_host = True

    def __init__(
        self,
        vector_env: VectorEnv,
        *,
        generator: Generator,
        tasks: Tensor | None = None,
        episode_length: int | None = None,
        observe: Sequence[str] = (),
        fixed_length: bool = False,
    ) -> None:
        self._envs, name = vector_env, _name(vector_env)
        self._observations = Observations(vector_env.single_observation_space, observe, name)
        self._actions = Actions(vector_env.single_action_space, name)
        self._mode = _mode(vector_env, name)
        self._own = isinstance(vector_env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        length = episode_length or _registered_length(vector_env)
        if length is None:
            raise UserError(
                f"episode_length is needed: env={name} does not say after how many steps its "
                "episodes end at the latest"
            )
        spec = EnvSpec(self._observations.space, self._actions.space, length, fixed_length)
        if tasks is None:
            tasks = torch.arange(vector_env.num_envs, device=generator.device)[:, None]
        if len(tasks) != vector_env.num_envs:
            raise UserError(f"tasks are {len(tasks)}, and env={name} has {vector_env.num_envs}")
        super().__init__(_Given(spec, name), tasks, generator)
        self._age = np.zeros(self.num_envs, np.int64)  # steps since the episode began
        self._steps = 0

    def reset(self) -> Tensor:
        """See `BatchedEnv.reset`."""
        num_seeds = self.num_envs if self._own else 1
        device = self.generator.device
        drawn = torch.randint(MAX_SEED, (num_seeds,), generator=self.generator, device=device)
        seeds: Any = drawn.tolist() if self._own else int(drawn)
        observation, _ = self._envs.reset(seed=seeds)
        self._age[:] = self._steps = 0
        self.waiting = None
        return self._stored(observation)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `BatchedEnv.step`."""
        self._steps += 1
        theirs = self._actions.of_batch(action)
        observation, rewards, terminated, truncated, info = self._envs.step(theirs)
        over, cut = (np.array(flag, np.bool_) for flag in (terminated, truncated))
        # Copies: they may be its own, and change with what is reset.
        rewards = list(rewards)
        self._age += 1
        if self.waiting is not None:
            for index in self.waiting.nonzero()[:, 0].tolist():
                rewards[index], over[index], cut[index], self._age[index] = 0.0, False, False, 0
            self.waiting = None
        reward, ended = finite_rewards(rewards, self._where), over | cut
        if (self._age[~ended] >= self.episode_length).any():
            index = int(np.argmax(~ended & (self._age >= self.episode_length)))
            raise UserError(
                f"{self._where(index)}: the episode goes on after episode_length="
                f"{self.episode_length} steps; give a larger episode_length, or make it with "
                f"max_episode_steps={self.episode_length}"
            )
        self._age[ended] = 0
        final = self._stored(observation)
        after = final
        if ended.any() and self._mode is AutoresetMode.SAME_STEP:
            final = self._with_finals(final, ended, info)
        elif ended.any() and (self._resets_at_once or ended.all()):
            after = self._stored(self._reset(ended, theirs))
        elif ended.any():
            self.waiting = torch.from_numpy(ended).to(self.device)
        self.final_observation = final
        flags = (torch.from_numpy(flag).to(self.device) for flag in (over, cut))
        return after, torch.from_numpy(reward).to(self.device), *flags  # type: ignore[return-value]

    def untrack(self) -> None:
        """Vector environments are on the host, and stay there."""
        raise AssertionError("no CUDA graph can hold a vector environment")

    def _with_finals(self, observation: Tensor, ended: np.ndarray, info: dict[str, Any]) -> Tensor:
        """Where the step really ended, of what was reset within it."""
        if info.get("final_obs") is None:
            raise UserError(
                f"{self._where(0)}: episodes ended, and info has no 'final_obs', as Gymnasium has "
                f"it in SAME_STEP mode; {WRAP}"
            )
        rows = np.flatnonzero(ended)
        last = [_row(info["final_obs"], int(row)) for row in rows]
        stored = self._observations.of_each(last, lambda index: self._where(int(rows[index])))
        at = torch.from_numpy(rows).to(self.device)
        return observation.index_copy(0, at, stored.to(self.device))

    @property
    def _resets_at_once(self) -> bool:
        """Whether it resets, when told to, those of its environments that ended."""
        return self._mode is AutoresetMode.DISABLED or self._own

    def _reset(self, ended: np.ndarray, actions: np.ndarray) -> Any:
        """Begin new episodes where they ended; returns the observations of all."""
        if self._resets_at_once:
            return self._envs.reset(options={"reset_mask": ended})[0]
        # They all reset, whatever the actions.
        return self._envs.step(actions)[0]

    def _stored(self, observations: Any) -> Tensor:
        stored = self._observations.of_batch(observations, self._where)
        return stored.to(self.device, copy=True)

    def _where(self, index: int) -> str:
        return f"env={self.family.name}, environment {index}, step {self._steps}"


def _name(vector_env: VectorEnv) -> str:
    spec = vector_env.spec
    return type(vector_env.unwrapped).__name__ if spec is None else f"gym:{spec.id}"


def _mode(vector_env: VectorEnv, name: str) -> AutoresetMode:
    """How it resets.

    Raises:
        UserError: If it does not say, or does not do what it says.
    """
    mode = vector_env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        modes = ", ".join(f"AutoresetMode.{each.name}" for each in AutoresetMode)
        raise UserError(
            f"env={name}: metadata['autoreset_mode'] is {mode!r}; set it to what the environment "
            f"does when episodes end: {modes}"
        )
    inner = vector_env.unwrapped
    shares = getattr(inner, "shared_memory", True)
    if mode is AutoresetMode.NEXT_STEP and isinstance(inner, AsyncVectorEnv) and not shares:
        # Its workers forget to take note of a reset from outside, and would reset again.
        raise UserError(
            f"env={name}: AsyncVectorEnv with shared_memory=False in NEXT_STEP mode would reset "
            "again what is reset at once; make it with shared_memory=True, or in another mode"
        )
    return mode


def _registered_length(vector_env: VectorEnv) -> int | None:
    """The limit that an environment, or each of its environments, is registered with."""
    specs = [vector_env.spec, *(env.spec for env in getattr(vector_env.unwrapped, "envs", ()))]
    found = {spec.max_episode_steps for spec in specs if spec is not None}
    return max((steps for steps in found if steps), default=None)


def _row(values: Any, index: int) -> Any:
    """The part of one environment in observations of all."""
    if isinstance(values, dict):
        return {key: _row(part, index) for key, part in values.items()}
    if isinstance(values, tuple):
        return tuple(_row(part, index) for part in values)
    return values[index]
