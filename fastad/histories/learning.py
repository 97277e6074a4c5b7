"""Fresh learners of a source, and what happens to them: the same again from the same streams."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastad.acting.interact import Agent, NoiseLabels, Transition, interact
from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.envs.registry import make_family
from fastad.sources.base import Source
from fastad.sources.registry import make_source

BLOCK_STEPS = 256  # at least, of what is run in memory
SHARD_STREAMS, RUN_STREAMS = 0, 1  # what random streams are for, so that none is used twice


class Begun(NamedTuple):
    """Learners before their first step."""

    env: BatchedEnv
    learners: Source
    noise: torch.Generator


@dataclass(frozen=True)
class Learning:
    """Everything that decides what `N` learners will do.

    Environment, learners and noise have a random stream each.
    """

    env: str
    env_kwargs: dict[str, Any]
    source: str
    source_kwargs: dict[str, Any]
    num_episodes: int  # of as many steps as the longest
    tasks: Tensor  # (N, K) on the device to run on
    streams: np.random.SeedSequence
    action_noise: float = 0.0
    noise_labels: NoiseLabels = "clean"

    def begin(self) -> Begun:
        """Make the learners and their environments, the same at every call."""
        world, learning, noise = (
            torch.Generator(self.tasks.device).manual_seed(int(state))
            for state in self.streams.generate_state(3, np.uint64)
        )
        env = make_family(self.env, **self.env_kwargs).make(self.tasks, world)
        learners = make_source(
            self.source,
            env,
            num_episodes=self.num_episodes,
            generator=learning,
            **self.source_kwargs,
        )
        return Begun(env, learners, noise)

    def run(
        self, begun: Begun, *, block_steps: int, agent: Agent | None = None
    ) -> Iterator[Transition]:
        """Blocks of what happens to the learners of `begin`, to the end of their histories.

        Args:
            begun: Of `begin`, to be used once.
            block_steps: Steps per block.
            agent: Acts for the learners; the learners themselves if left out.
        """
        settings: dict[str, Any] = {
            "num_steps": self.num_episodes * begun.env.episode_length,
            "block_steps": block_steps,
            "generator": begun.noise,
            "action_noise": self.action_noise,
            "noise_labels": self.noise_labels,
        }
        if agent is None:
            return begun.learners.run(begun.env, **settings)
        return interact(begun.env, agent, **settings)


def run_source(
    env: str,
    tasks: Tensor,
    *,
    env_kwargs: dict[str, Any],
    source: str,
    source_kwargs: dict[str, Any],
    num_episodes: int,
    action_noise: float = 0.0,
    seed: int,
    keep_observed: bool = True,
) -> Transition:
    """Let fresh learners of a source learn `tasks`, in memory.

    Args:
        env: Name of the environment.
        tasks: (N, K) on the device to run on.
        env_kwargs: Options of the environment.
        source: Name of the source.
        source_kwargs: Options of the source.
        num_episodes: Episodes per task.
        action_noise: Probability of executing a random action instead of the source's.
        seed: Its random streams are not those of a dataset of the same seed.
        keep_observed: Whether what was observed is wanted, and the policies: frames are large.

    Returns:
        Everything that happened, as one block (N, T, ...), T = num_episodes * episode_length;
        observations and policies (N, T, 0) where they are not kept.
    """
    learning = Learning(
        env=env,
        env_kwargs=env_kwargs,
        source=source,
        source_kwargs=source_kwargs,
        num_episodes=num_episodes,
        action_noise=action_noise,
        tasks=tasks,
        streams=np.random.SeedSequence(seed, spawn_key=(RUN_STREAMS,)),
    )
    begun = learning.begin()
    check_noise(action_noise, begun.learners)
    parts = []
    for block in learning.run(begun, block_steps=max(begun.env.episode_length, BLOCK_STEPS)):
        if not keep_observed:
            nothing = block.reward.new_empty((*block.reward.shape, 0))
            block = block._replace(observation=nothing, policy=nothing)
        if block.reward.shape[1] > 0:
            parts.append(block)
    return Transition(*(torch.cat(field, dim=1) for field in zip(*parts, strict=True)))


def check_noise(action_noise: float, learners: Source) -> None:
    """Raises UserError for what is no probability, or where nobody can act for the learners."""
    if not 0.0 <= action_noise <= 1.0:
        raise UserError(f"action_noise={action_noise} is no probability; use 0 to 1")
    if action_noise > 0.0 and learners.owns_loop:
        raise UserError(
            f"action_noise={action_noise} is not possible with source {learners.name!r}, which "
            "executes its actions itself; leave it out, or see the source's own options"
        )
