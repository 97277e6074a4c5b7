"""Task sets of two rooms and of a bandit, and a model that acts on them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastad.evaluate.measure import measure
from fastad.evaluate.result import Result
from fastad.evaluate.task_set import TaskSet, Trial, try_model
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel


@pytest.fixture
def rooms(make_info):
    info = make_info(
        env="dark-room", env_kwargs={"size": 3, "episode_length": 6}, source="frontier",
        source_knows="the movement rules, not the reward", num_steps=24, episode_length=6,
    )  # fmt: skip
    return TaskSet(info, torch.tensor([[0, 0], [1, 0]]), 3, seed=0)


@pytest.fixture
def arms(make_info):
    info = make_info(
        env="bernoulli-bandit", env_kwargs={"num_arms": 2}, source="ucb1", num_steps=50,
        episode_length=1,
    )  # fmt: skip
    return TaskSet(info, torch.tensor([[0.0, 1.0]]), 4, seed=0)


def _model(tasks: TaskSet, **changes: Any) -> SequenceModel:
    env = tasks.make_env(tasks.generator("cpu"))
    torch.manual_seed(0)
    config = ModelConfig(**{"width": 16, "num_layers": 1, "context": 8} | changes)
    return SequenceModel(config, env.observation_space, env.action_space, env.episode_length).eval()


def _trial(tasks: TaskSet, num_episodes: int) -> Trial:
    return try_model(_model(tasks), tasks, num_episodes=num_episodes)


@pytest.fixture
def model_on() -> Callable[..., SequenceModel]:
    """A model of random weights for a task set, with changes to its config."""
    return _model


@pytest.fixture
def trial_on() -> Callable[[TaskSet, int], Trial]:
    """What such a model does on tasks, in so many episodes."""
    return _trial


@pytest.fixture
def result_on() -> Callable[..., Result]:
    """The same as a result, beside the source and chance."""
    return lambda tasks, num_episodes, **facts: measure(_trial(tasks, num_episodes), **facts)


def _told(returns: Any, **facts: Any) -> Result:
    """A result of one rollout on each task, from its returns (P, E)."""
    rows = np.asarray(returns, dtype=np.float32)
    facts = {"label": "AD", "method": "ad", "env": "dark-room", "split": "test", "seed": 0,
             "control": "none", "versions": {}, "source": "a2c", "optimal_return": 10.0,
             "tasks": np.arange(len(rows))[:, None]} | facts  # fmt: skip
    return Result(returns=rows, **facts)


@pytest.fixture
def told() -> Callable[..., Result]:
    """A result made of plain numbers."""
    return _told
