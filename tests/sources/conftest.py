"""Running a source on tasks of one's choice."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastad.acting.interact import Transition, episode_returns, interact
from fastad.envs.base import BatchedEnv
from fastad.envs.registry import make_family
from fastad.sources.base import Source
from fastad.sources.registry import make_source


class Learned(NamedTuple):
    """What came of a run."""

    env: BatchedEnv
    source: Source
    history: Transition  # (N, steps, ...)
    returns: Tensor  # (N, E)


def learn_tasks(
    env: str,
    source: str,
    *,
    num_episodes: int,
    tasks: Tensor | None = None,
    env_kwargs: dict[str, Any] | None = None,
    action_noise: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Learned:
    """Learn `tasks`, or all tasks of the environment, with separate streams for everything."""
    family = make_family(env, **(env_kwargs or {}))
    tasks = family.tasks() if tasks is None else tasks
    assert tasks is not None
    streams = [torch.Generator().manual_seed(3 * seed + i) for i in range(3)]
    batch = family.make(tasks, streams[0])
    learners = make_source(
        source, batch, num_episodes=num_episodes, generator=streams[1], **options
    )
    num_steps = num_episodes * batch.episode_length
    (history,) = interact(
        batch,
        learners,
        num_steps=num_steps,
        block_steps=num_steps,
        generator=streams[2],
        action_noise=action_noise,
    )
    ended = history.terminated | history.truncated
    returns = episode_returns(history.reward, ended, num_episodes)
    return Learned(batch, learners, history, returns)


@pytest.fixture
def learn() -> Callable[..., Learned]:
    return learn_tasks
