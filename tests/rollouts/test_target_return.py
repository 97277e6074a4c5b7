"""Models that read the return to go are asked for a return, in every episode anew."""

import pytest
import torch

from fastad.acting.interact import Transition, interact
from fastad.actions import Categorical
from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom, DarkRoomHard
from fastad.model.config import ModelConfig
from fastad.model.memory import RecordedMemory
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import InContextAgent
from fastad.rollouts.engine import cache_error, returns_asked_for, rollout

# In a room of 3 x 3 with the start at (1, 1): on every step from the first on, or the second.
GOALS = torch.tensor([[2, 1], [2, 2]])
OPTIMAL = [4.0, 3.0]


def make_room(goals=GOALS, family=DarkRoom, **changes):
    generator = torch.Generator().manual_seed(0)
    env = family(**({"size": 3, "episode_length": 4} | changes)).make(goals, generator)
    return env, generator


def make_model(env, return_scale=4.0):
    torch.manual_seed(0)
    config = ModelConfig(context=10, width=16, num_heads=2)
    model = SequenceModel(
        config, env.observation_space, env.action_space, env.episode_length,
        return_scale=return_scale,
    )  # fmt: skip
    with torch.no_grad():
        model.heads.policy.weight.mul_(8.0)  # so decided that a wrong logit shows in the actions
    return model.eval()


def recorded(env, generator, asked_for, num_steps, **options):
    model = make_model(env)
    memory = RecordedMemory(model.make_memory(env.num_envs))
    agent = InContextAgent(
        memory, model.actions, env.num_envs, generator=generator, target_return=asked_for,
        **options,
    )  # fmt: skip
    (block,) = interact(env, agent, num_steps=num_steps, block_steps=num_steps, generator=generator)
    return memory.whole(), block


def test_each_task_is_asked_for_its_optimum():
    env, _ = make_room()
    assert returns_asked_for(make_model(env), env, None).tolist() == OPTIMAL
    assert returns_asked_for(make_model(env), env, 1.5).tolist() == [1.5, 1.5]


def test_what_is_to_go_is_what_was_asked_for_less_what_the_episode_gave():
    env, generator = make_room()
    steps, block = recorded(env, generator, torch.tensor(OPTIMAL), 40)
    assert block.reward.sum() > 0
    reward = block.reward.view(2, 10, 4)
    before = reward.cumsum(dim=2) - reward  # in the episode
    expected = torch.tensor(OPTIMAL)[:, None] - before.flatten(1)
    assert torch.equal(steps.return_to_go, expected)


def test_episodes_that_end_early_ask_anew():
    env, generator = make_room(family=DarkRoomHard, terminate_on_goal=True)
    steps, block = recorded(env, generator, torch.ones(2), 60)
    # A single reward ends an episode: all of it is to go at every step that is taken.
    assert block.terminated.sum() > 2
    assert torch.equal(steps.return_to_go, torch.ones(2, 60))


def test_hidden_rewards_do_not_show_in_what_is_to_go():
    env, generator = make_room()
    steps, block = recorded(env, generator, torch.tensor(OPTIMAL), 40, control="no-reward")
    assert block.reward.sum() > 0
    assert torch.equal(steps.return_to_go, torch.tensor(OPTIMAL)[:, None].expand(2, 40))


def test_forgetting_asks_anew_in_the_environments_that_forget():
    env, generator = make_room()
    model = make_model(env)
    agent = InContextAgent(
        model.make_memory(2),
        Categorical(5),
        2,
        generator=generator,
        target_return=torch.tensor(OPTIMAL),
    )
    going = torch.zeros(2, dtype=torch.bool)
    lived = Transition(env.reset(), going.long(), torch.ones(2), going, going, torch.ones(2, 5))
    agent.observe(lived, lived.observation)
    agent.forget(torch.tensor([True, False]))
    assert agent.return_to_go.tolist() == [4.0, 2.0]


def test_the_same_actions_with_and_without_the_cache():
    actions = []
    for kv_cache in (True, False):
        env, generator = make_room()
        rollout(
            make_model(env), env, num_episodes=12, generator=generator, kv_cache=kv_cache,
            on_block=lambda block: actions.append(block.action),
        )  # fmt: skip
    kept, recomputed = torch.cat(actions[:12], dim=1), torch.cat(actions[12:], dim=1)
    assert kept.shape == (2, 48)
    assert torch.equal(kept, recomputed)


def test_cached_logits_stay_those_of_the_full_pass_for_many_windows():
    env, generator = make_room()
    assert cache_error(make_model(env), env, num_steps=100, generator=generator) < 1e-5


def test_other_models_are_asked_for_nothing():
    env, generator = make_room()
    model = make_model(env, return_scale=None)
    assert returns_asked_for(model, env, None) is None
    with pytest.raises(UserError, match=r"target_return=2.0 is for models that read returns"):
        rollout(model, env, num_episodes=1, generator=generator, target_return=2.0)


def test_where_nobody_knows_the_optimum_it_must_be_said(monkeypatch):
    env, generator = make_room()
    monkeypatch.setattr(type(env), "optimal_return", lambda self: None)
    with pytest.raises(UserError, match=r"env=dark-room is not known; say which with --target-ret"):
        rollout(make_model(env), env, num_episodes=1, generator=generator)
    result = rollout(make_model(env), env, num_episodes=1, generator=generator, target_return=3.0)
    assert result.returns.shape == (2, 1)
