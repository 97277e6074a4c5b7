"""Models of random weights, ready to act on a few tasks of any environment."""

import pytest
import torch

from fastad.envs.registry import make_family
from fastad.evaluate.prepared import Prepared
from fastad.evaluate.task_set import TaskSet
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel


@pytest.fixture
def prepared_on(make_info):
    """For an environment with options, on tasks drawn or listed, twice each."""

    def prepared(name, num_tasks=3, *, episodes=2, model=None, acting=None, **options):
        family = make_family(name, **options)
        spec, listed = family.spec(), family.tasks()
        generator = torch.Generator().manual_seed(1)
        tasks = (
            family.sample(num_tasks, "test", generator) if listed is None else listed[:num_tasks]
        )
        info = make_info(
            env=name, env_kwargs=options, num_steps=8 * spec.episode_length,
            episode_length=spec.episode_length,
        )  # fmt: skip
        torch.manual_seed(0)
        config = ModelConfig(**{"width": 16, "num_heads": 2, "context": 9} | (model or {}))
        built = SequenceModel(
            config, spec.observation_space, spec.action_space, spec.episode_length, family=family
        ).eval()
        return Prepared(
            built, None, TaskSet(info, tasks, 2, seed=3), episodes, episodes=episodes,
            **(acting or {}),
        )  # fmt: skip

    return prepared
