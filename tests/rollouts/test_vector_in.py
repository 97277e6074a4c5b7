"""A rollout over a vector environment takes the same actions as one over our batched one."""

import functools

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastad.envs.dark_room import DarkRoomHard
from fastad.envs.vector_in import VectorIn
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.engine import rollout

GOALS = torch.tensor([[0, 0], [2, 1], [1, 2], [2, 2], [0, 1], [1, 0]])
# Rooms end at the goal: apart from each other, and by truncation where it is not found.
OPTIONS = {"size": 3, "episode_length": 6, "terminate_on_goal": True}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_room(goal):
    return gymnasium.make("fastad/DarkRoomHard-v0", goal=goal, **OPTIONS)


def vectors(mode):
    """The same rooms as one of Gymnasium's vector environments."""
    if mode == "fastad":
        return gymnasium.make_vec(
            "fastad/DarkRoomHard-v0", num_envs=6, goal=GOALS.tolist(), **OPTIONS
        )
    makers = [functools.partial(make_room, goal) for goal in GOALS.tolist()]
    return SyncVectorEnv(makers, autoreset_mode=mode)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    env = DarkRoomHard(**OPTIONS).make(GOALS, seeded(0))
    config = ModelConfig(context=20, width=16, num_heads=2)
    made = SequenceModel(config, env.observation_space, env.action_space, env.episode_length)
    with torch.no_grad():
        # Decided enough that a wrong logit shows in the actions.
        made.heads.policy.weight.mul_(8.0)
    return made.eval()


def play(model, env):
    """Everything that happened, and returns. The agent's generator is apart from the rooms'."""
    blocks = []
    result = rollout(model, env, num_episodes=4, generator=seeded(7), on_block=blocks.append)
    return result.returns, [torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)]


@pytest.mark.parametrize("mode", ["fastad", *AutoresetMode])
def test_the_same_actions_in_every_mode(model, mode):
    returns, lived = play(model, DarkRoomHard(**OPTIONS).make(GOALS, seeded(0)))
    terminated, truncated = lived[3], lived[4]
    assert terminated.any()
    assert truncated.any()
    env = VectorIn(vectors(mode), generator=seeded(0), tasks=GOALS, episode_length=6)
    theirs, others = play(model, env)
    assert torch.equal(returns, theirs)
    for ours, other in zip(lived, others, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=0)
