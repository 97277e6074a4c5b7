"""A part of a batch experiences and draws what it does within the whole, whatever others do."""

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.actions import distribution_over
from fastad.base.config import parse_options
from fastad.envs.family import TaskFamily
from fastad.envs.registry import ENVS, make_family
from fastad.rollouts.part import Part, PartOfEnv, draw_part

# Names with options; Python environments are of Gymnasium, seeded by the batch and by themselves.
NAMES = [*ENVS, "watermaze store=frames height=8 width=12", "combination-lock",
         'gym:CartPole-v1 tasks={"length":[0.4,0.6]}',
         'gym:FrozenLake-v1 tasks=seeds']  # fmt: skip
NUM = 7


def rows_of(family: TaskFamily) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tasks = family.tasks()
    if tasks is None:
        return family.sample(NUM, "train", generator)
    return tasks[torch.randint(len(tasks), (NUM,), generator=generator)]


def make(name):
    name, *options = name.split()
    family = make_family(name, **parse_options("env_options", options))
    return family, rows_of(family)


def live(env, actions):
    """Everything that comes of actions (T, N, ...), and the generator's next number."""
    seen = [env.reset()]
    for action in actions:
        seen += [*env.step(action), env.final_observation]
    return [field.clone() for field in seen], torch.rand(1, generator=env.generator)


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("name", NAMES)
def test_what_a_row_experiences_does_not_depend_on_the_actions_of_others(name):
    family, rows = make(name)
    drawing = torch.Generator().manual_seed(1)
    env = family.make(rows, torch.Generator().manual_seed(2))
    steps = 2 * min(env.episode_length, 10) + 3
    actions = torch.stack([env.actions.random(NUM, drawing) for _ in range(steps)])
    whole, after = live(env, actions)
    for part in (Part(0, 2, NUM), Part(2, 6, NUM), Part(6, 7, NUM)):
        env = family.make(rows, torch.Generator().manual_seed(2))
        own, after_part = live(PartOfEnv(env, part), actions[:, part.rows])
        for ours, theirs in zip(own, whole, strict=True):
            assert torch.equal(ours, theirs[part.rows])
        assert torch.equal(after, after_part)  # it drew as much as the whole


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 40), num=st.integers(1, 50))
def test_parts_are_all_rows_once_and_none_is_empty(total, num):
    parts = Part.split(total, num)
    assert [row for part in parts for row in range(part.first, part.stop)] == [*range(total)]
    assert len(parts) == min(num, total)
    sizes = [part.stop - part.first for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(4),
        gymnasium.spaces.MultiDiscrete([3, 2]),
        gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32),
    ],
    ids=str,
)
def test_a_part_draws_what_the_whole_draws_for_it(space):
    actions = distribution_over(space)
    params = torch.randn(NUM, actions.num_params, generator=torch.Generator().manual_seed(0))
    policy = actions.policy(params)
    whole = actions.draw(policy, torch.Generator().manual_seed(1))
    for part in Part.split(NUM, 3):
        generator = torch.Generator().manual_seed(1)
        own = draw_part(actions, policy[part.rows], generator, part)
        assert torch.equal(own, whole[part.rows])
