"""Environments that reset in the step after an episode's end act as if within that step."""

import functools

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastad.acting.interact import interact
from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoomHard
from fastad.envs.gym_in import Gym
from fastad.envs.vector_in import MAX_SEED, VectorIn
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.engine import cache_error, rollout
from fastad.sources.random import Random
from tests.rollouts.worlds import Lagging, Slide

LENGTH, EPISODES, NUM_STEPS = 9, 4, 36
GOALS = (0, 6, 3, 0, 6)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def slide(goal, kind):
    return gymnasium.wrappers.TimeLimit(Slide(goal=goal, kind=kind), LENGTH)


def batched(kind="choice", goals=GOALS):
    """The environments as fastad steps them: each resets within the step that ends its episode."""
    make = functools.partial(slide, kind=kind)
    family = Gym(make, tasks=[{"goal": goal} for goal in goals], episode_length=LENGTH)
    return family.make(torch.arange(len(goals))[:, None], seeded(0))


def lagging(kind="choice", goals=GOALS):
    """The same, with the same seeds; each resets in the step after."""
    seeds = torch.randint(MAX_SEED, (len(goals),), generator=seeded(0)).tolist()
    vector = Lagging([slide(goal, kind) for goal in goals], seeds)
    return vector, VectorIn(vector, generator=seeded(0), episode_length=LENGTH)


def make_model(env, return_scale=None, kernels="auto", **config):
    torch.manual_seed(0)
    model = SequenceModel(
        ModelConfig(**({"width": 16} | config)), env.observation_space, env.action_space,
        env.episode_length, return_scale=return_scale,
    )  # fmt: skip
    model.kernels = kernels
    with torch.no_grad():
        # Decided enough that a wrong logit shows in the actions.
        model.heads.policy.weight.mul_(8.0)
    return model.eval()


def play(model, env, **options):
    """All that happened as tensors, block by block, and what the generator would draw next."""
    blocks, generator = [], seeded(7)
    options = {"num_episodes": EPISODES, "on_block": blocks.append} | options
    returns = rollout(model, env, generator=generator, **options).returns
    assert [block.reward.shape[1] for block in blocks] == [env.episode_length] * EPISODES
    lived = [torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)]
    return [returns, *lived[:5], torch.rand(3, generator=generator)], lived[5]


def assert_same(model, ours, theirs, kind="choice", **options):
    (expected, policy), (found, other) = (play(model, env, **options) for env in (ours, theirs))
    ended = expected[4] | expected[5]
    assert (ended.any(dim=0) & ~ended.all(dim=0)).any(), "all end together: nobody waits"
    for one, two in zip(expected, found, strict=True):
        # Vectors are rounded as logits are, and choices are choices.
        close = 1e-4 if kind == "vector" and one.is_floating_point() else 0.0
        torch.testing.assert_close(two, one, rtol=0, atol=close)
    torch.testing.assert_close(other, policy, rtol=0, atol=1e-4 if kind == "vector" else 1e-5)


# The context is shorter than a rollout: a ring of 16 wraps twice fused, six times interleaved.
MODELS = {
    "fused": {"context": 7},
    "interleaved": {"context": 7, "layout": "interleaved"},
    "unordered": {"context": 8, "layout": "unordered"},
    "by pytorch": {"context": 7, "layout": "interleaved", "kernels": "sdpa"},
    "rope": {"context": 7, "positions": "rope"},
    "alibi": {"context": 7, "positions": "alibi", "kernels": "sdpa"},
    "as many places as steps": {"context": NUM_STEPS, "positions": "learned"},
    "reads returns to go": {"context": 7, "return_scale": 4.0},
    "gru": {"trunk": "gru"},
}
CHANGES = {
    "recomputed": {"kv_cache": False},
    "greedy": {"greedy": True},
    "one episode": {"control": "one-episode"},
    "no reward": {"control": "no-reward"},
    "wiped": {"control": "wiped-context"},
    "wiped and recomputed": {"control": "wiped-context", "kv_cache": False},
}


@pytest.mark.parametrize("kv_cache", [True, False])
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_every_model_acts_as_in_the_batched_environment(config, kv_cache):
    ours, (vector, theirs) = batched(), lagging()
    target = {"target_return": 3.0} if "return_scale" in config else {}
    assert_same(make_model(ours, **config), ours, theirs, kv_cache=kv_cache, **target)
    # Everybody waited, and some more often than others.
    assert vector.num_steps > NUM_STEPS + EPISODES


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("trunk", ["fused", "gru"])
def test_so_it_does_by_every_way_of_acting_and_under_controls(changes, trunk):
    ours, (_, theirs) = batched(), lagging()
    assert_same(make_model(ours, **MODELS[trunk]), ours, theirs, **changes)


@pytest.mark.parametrize("changes", [{}, CHANGES["recomputed"]], ids=["cached", "recomputed"])
@pytest.mark.parametrize("kind", ["choices", "vector"])
def test_so_it_does_whatever_the_actions(kind, changes):
    ours, (_, theirs) = batched(kind), lagging(kind)
    assert_same(make_model(ours, context=7), ours, theirs, kind, **changes)


def test_learned_places_that_an_episode_fills_are_enough_where_contexts_are_wiped():
    ours, (_, theirs) = batched(), lagging()
    model = make_model(ours, context=LENGTH, positions="learned")
    assert_same(model, ours, theirs, control="wiped-context")


def test_rooms_that_nobody_seeds_are_as_fastads_own():
    goals = torch.tensor([[0, 0], [2, 1], [1, 2], [2, 2], [0, 1]])
    options = {"size": 3, "episode_length": LENGTH, "terminate_on_goal": True}
    rooms = [
        gymnasium.make("fastad/DarkRoomHard-v0", goal=goal, **options) for goal in goals.tolist()
    ]
    ours = DarkRoomHard(**options).make(goals, seeded(0))
    theirs = VectorIn(
        Lagging(rooms, [0] * 5), generator=seeded(0), tasks=goals, episode_length=LENGTH
    )
    assert_same(make_model(ours, context=7), ours, theirs)


def test_after_one_rollout_comes_another():
    ours, (_, theirs) = batched(), lagging()
    model = make_model(ours, context=7)
    for env in (ours, theirs):
        play(model, env)
    # `Lagging` has seeds of its own, and begins anew with them.
    assert_same(model, batched(), theirs)


def test_the_policies_of_the_kernels_are_equal_to_the_last_bit():
    ours, (_, theirs) = batched(), lagging()
    model = make_model(ours, context=7, layout="interleaved")
    if model.freeze() is None:
        pytest.skip("needs a C++ compiler")
    (_, expected), (_, found) = play(model, ours), play(model, theirs)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("goals", [(0,), (0, 0, 0)], ids=["one", "three that end together"])
def test_nobody_waits_where_all_end_together(goals):
    ours, (vector, theirs) = batched(goals=goals), lagging(goals=goals)
    # The same seed for all: the same starts and, where actions are the same, the same ends.
    vector.seeds = vector.seeds[:1] * len(goals)
    model = make_model(ours, context=7)
    found, _ = play(model, theirs, greedy=True)
    ended = found[4] | found[5]
    assert torch.equal(ended.any(dim=0), ended.all(dim=0))
    # One step more for each end, all in it.
    assert vector.num_steps == NUM_STEPS + int(ended[0].sum())
    if len(goals) == 1:
        for one, two in zip(play(model, ours, greedy=True)[0], found, strict=True):
            assert torch.equal(one, two)


def test_gymnasiums_own_vector_of_cart_poles_is_taken():
    vector = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert not isinstance(vector.unwrapped, SyncVectorEnv)
    env = VectorIn(vector, generator=seeded(0), episode_length=500)
    model = make_model(env, context=16)
    blocks = []
    result = rollout(model, env, num_episodes=1, generator=seeded(7), on_block=blocks.append)
    (block,) = blocks
    assert block.reward.shape == (4, 500)
    # No step that resets is among them: it would pay nothing.
    assert (block.reward == 1).all()
    starts = torch.zeros(4, 500, dtype=torch.bool)
    starts[:, 0], starts[:, 1:] = True, (block.terminated | block.truncated)[:, :-1]
    assert starts.sum() > 40
    # Gymnasium draws first states so near to standing still, and cannot get back there alone.
    assert torch.equal((block.observation.abs() <= 0.05).all(dim=-1) & starts, starts)
    assert torch.equal(result.returns[:, 0].long(), block.terminated.long().argmax(dim=1) + 1)


def test_what_cannot_be_done_out_of_step_is_refused():
    _, env = lagging()
    model = make_model(env, context=7)
    with pytest.raises(UserError, match=r"control=shuffled-rewards.*AutoresetMode\.SAME_STEP"):
        play(model, env, control="shuffled-rewards")
    with pytest.raises(UserError, match=r"cannot be recorded.*AutoresetMode\.SAME_STEP"):
        cache_error(model, env, num_steps=NUM_STEPS, generator=seeded(7))
    settings = {"num_steps": NUM_STEPS, "block_steps": 5, "generator": seeded(7)}
    source = Random(env, num_episodes=EPISODES, generator=seeded(1))
    with pytest.raises(UserError, match=r"Lagging resets in the step after.*Random cannot wait fo"):
        list(interact(env, source, **settings))
