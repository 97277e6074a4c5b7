"""The rollout engine: one loop, the cache as an option, contexts per environment."""

import gc
import shutil
import weakref
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch
from fastad_kernels import native

from fastad.acting.interact import Transition, interact
from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.configs import RolloutConfig
from fastad.envs.dark_room import DarkRoom, DarkRoomHard
from fastad.model.config import ModelConfig
from fastad.model.memory import RecordedMemory
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import Control, InContextAgent
from fastad.rollouts.engine import cache_error, rollout

GOALS = torch.tensor([[0, 0], [2, 1], [1, 2], [2, 2]])


def make_room(seed=0, goals=GOALS, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    options = {"size": 3, "episode_length": 4} | kwargs
    return DarkRoom(**options).make(goals, generator), generator


def make_model(env, **changes):
    torch.manual_seed(0)
    config = ModelConfig(**({"context": 10, "width": 16, "num_heads": 2} | changes))
    model = SequenceModel(config, env.observation_space, env.action_space, env.episode_length)
    with torch.no_grad():
        model.heads.policy.weight.mul_(
            8.0
        )  # decided enough that a wrong logit shows in the actions
    return model.eval()


def make_agent(model, generator, *, kv_cache=True, untracked=False, **options):
    memory = model.make_memory(4, kv_cache=kv_cache, untracked=untracked)
    return InContextAgent(memory, model.actions, 4, generator=generator, **options)


def play(model, *, num_episodes, seed=0, **options):
    env, generator = make_room(seed)
    blocks = []
    result = rollout(
        model, env, num_episodes=num_episodes, generator=generator, on_block=blocks.append,
        **options,
    )  # fmt: skip
    return result, torch.cat([block.action for block in blocks], dim=1)


def test_a_rollouts_memory_goes_with_it():
    model = make_model(make_room()[0])
    model.make_memory(4)  # what is imported at first use leaves cycles of its own behind
    gc.collect()
    gc.disable()
    try:
        memory = model.make_memory(4)
        rings = [weakref.ref(ring) for ring in memory.rings]
        with torch.inference_mode():
            memory.predict(make_step(0))
            memory.predict(make_step(1))
        del memory
        assert [ring() for ring in rings] == [None] * len(rings)
    finally:
        gc.enable()


def test_a_rollout_keeps_none_of_its_blocks():
    """A list of them, a kilobyte each, grew for as long as a rollout lasted."""
    env, generator = make_room()
    alive, kept = [], []

    def watch(block):
        kept.append(sum(tensor() is not None for tensor in alive))
        alive.extend(weakref.ref(tensor) for tensor in (block.reward, block.truncated))

    rollout(make_model(env), env, num_episodes=5, generator=generator, on_block=watch)
    assert kept == [0] * 5


def make_step(episode_step):
    zeros = torch.zeros(4, 1, dtype=torch.int64)
    return Steps(
        torch.zeros(4, 1, 2, dtype=torch.int64), zeros, zeros.float(),
        zeros == episode_step, zeros + episode_step,
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@pytest.mark.parametrize("positions", ["none", "rope", "alibi"])
def test_the_same_seed_gives_the_same_actions_with_and_without_the_cache(layout, positions):
    model = make_model(make_room()[0], layout=layout, positions=positions)
    cached, uncached = (play(model, num_episodes=12, kv_cache=kv)[1] for kv in (True, False))
    assert torch.equal(cached, uncached)


def test_sampled_actions_are_identical_over_2000_steps():
    model = make_model(make_room()[0], context=8, positions="rope")
    cached, uncached = (play(model, num_episodes=500, kv_cache=kv)[1] for kv in (True, False))
    assert cached.shape == (4, 2000)
    assert torch.equal(cached, uncached)


def test_cached_logits_stay_those_of_the_full_pass_for_many_windows():
    env, generator = make_room()
    model = make_model(env, num_layers=3, positions="rope")
    assert cache_error(model, env, num_steps=200, generator=generator) < 1e-5


@pytest.mark.parametrize("context", [3, 25])
@pytest.mark.parametrize("positions", ["none", "rope", "alibi"])
def test_another_window_than_in_training_is_kept_and_recomputed_alike(positions, context):
    model = make_model(make_room()[0], num_layers=3, positions=positions)
    env, generator = make_room()
    assert cache_error(model, env, num_steps=100, generator=generator, context=context) < 1e-5
    cached, uncached = (
        play(model, num_episodes=25, kv_cache=kv, context=context)[1] for kv in (True, False)
    )
    assert torch.equal(cached, uncached)
    # As by a model of the same weights that has that window from the first.
    other = make_model(make_room()[0], num_layers=3, positions=positions, context=context)
    assert torch.equal(cached, play(other, num_episodes=25)[1])
    # And the model is as it was.
    assert model.window == 10
    assert not torch.equal(cached, play(model, num_episodes=25)[1])


@pytest.mark.skipif(native.why_unavailable() is not None, reason="the C++ kernels are not here")
def test_a_task_is_rolled_out_the_same_whoever_rolls_beside_it():
    """Greedy, since one generator draws for all environments in turn."""
    model = make_model(make_room()[0])
    model.kernels = "native"

    def actions_on(goals):
        env, generator = make_room(goals=goals)
        blocks = []
        rollout(model, env, num_episodes=12, generator=generator, greedy=True,
                on_block=blocks.append)  # fmt: skip
        return torch.cat([block.action for block in blocks], dim=1)

    together = actions_on(GOALS)
    for index in range(len(GOALS)):
        assert torch.equal(actions_on(GOALS[index : index + 1]), together[index : index + 1])


def test_returns_are_the_rewards_summed_per_task_and_episode():
    model = make_model(make_room()[0])
    env, generator = make_room()
    rewards = []
    result = rollout(
        model, env, num_episodes=3, generator=generator,
        on_block=lambda block: rewards.append(block.reward),
    )  # fmt: skip
    assert result.returns.shape == (4, 3)
    per_episode = torch.cat(rewards, dim=1).view(4, 3, 4).sum(dim=2)
    assert torch.equal(result.returns, per_episode)
    assert result.num_steps == 48


def test_greedy_takes_the_most_probable_action():
    model = make_model(make_room()[0])
    env, generator = make_room()
    agent = make_agent(model, generator, greedy=True)
    for block in interact(env, agent, num_steps=8, block_steps=1, generator=generator):
        assert torch.equal(block.action[:, 0], agent.logits.argmax(dim=1))
        # What is stored is the distribution acted by, not the softmax.
        assert torch.equal(block.policy[:, 0], torch.eye(5)[block.action[:, 0]])


@pytest.mark.parametrize("kv_cache", [True, False])
def test_forgetting_clears_the_context_of_one_environment_only(kv_cache):
    model = make_model(make_room()[0], positions="rope")
    mask = torch.tensor([False, True, False, False])

    @torch.inference_mode()
    def logits_after(forget):
        env, generator = make_room()
        agent = make_agent(model, generator, kv_cache=kv_cache)
        observation, seen = env.reset(), []
        for step in range(14):
            if step == 8 and forget:  # an episode begins, at the centre
                agent.forget(mask)
            action, _ = agent.act(observation)
            seen.append(agent.logits)
            action = torch.full_like(action, 2)  # the same path whatever the model thinks
            observation, reward, terminated, truncated = env.step(action)
            transition = (observation, action, reward, terminated, truncated, None)
            agent.observe(Transition(*transition), env.final_observation)
        return torch.stack(seen, dim=1)

    plain, forgetful = logits_after(False), logits_after(True)
    others = ~mask
    torch.testing.assert_close(forgetful[others], plain[others], rtol=1e-5, atol=1e-5)
    # Who forgets goes on as every environment began.
    again = forgetful[mask, 8:]
    torch.testing.assert_close(again, plain[mask, :6], rtol=1e-5, atol=1e-5)
    assert (again - plain[mask, 8:]).abs().max() > 1e-3


@pytest.mark.parametrize("kv_cache", [True, False])
def test_a_wiped_context_makes_every_episode_the_first(kv_cache):
    model = make_model(make_room()[0])
    env, generator = make_room()
    agent = make_agent(model, generator, kv_cache=kv_cache, control="wiped-context", greedy=True)
    blocks = list(interact(env, agent, num_steps=12, block_steps=4, generator=generator))
    for block in blocks[1:]:
        torch.testing.assert_close(block.policy, blocks[0].policy)


def test_every_control_can_be_asked_for():
    assert get_args(get_type_hints(RolloutConfig)["control"]) == get_args(Control)


def test_no_reward_shows_the_model_zeros_while_the_return_is_real():
    model = make_model(make_room()[0])
    env, generator = make_room(goals=torch.tensor([[1, 0]] * 4))
    agent = make_agent(model, generator, control="no-reward")
    agent.memory = memory = RecordedMemory(agent.memory)
    (block,) = interact(env, agent, num_steps=40, block_steps=40, generator=generator)
    assert block.reward.sum() > 0
    assert memory.whole().previous_reward.abs().max() == 0


def test_shuffled_rewards_are_dealt_out_anew_among_all_at_every_step():
    env, generator = make_room()
    agent = make_agent(make_model(env), generator, control="shuffled-rewards")
    action, going = torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)
    step = Transition(env.reset(), action, torch.arange(4.0), going, going, torch.ones(4, 5))
    shown = []
    for _ in range(200):
        agent.observe(step, step.observation)
        shown.append(agent.told.reward.long())
    orders = torch.stack(shown)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(200, 4))
    # All 24 orders, so that a reward is as often another's as places are: 200 of them miss one
    # with a probability of 24 * (23 / 24) ** 200, a two-hundredth.
    assert len(orders.unique(dim=0)) == 24


def test_rewards_of_a_single_task_cannot_be_shuffled():
    env, generator = make_room(goals=GOALS[:1].repeat(4, 1))
    with pytest.raises(UserError, match="shuffled-rewards shows the rewards of other tasks"):
        rollout(make_model(env), env, num_episodes=1, generator=generator,
                control="shuffled-rewards")  # fmt: skip


@pytest.mark.parametrize("kv_cache", [True, False])
def test_with_one_episode_a_step_sees_those_of_its_own_episode_alone(kv_cache):
    model = make_model(make_room()[0], positions="rope", context=40)
    generator = torch.Generator().manual_seed(0)
    # Episodes that end at different times.
    room = DarkRoomHard(size=3, episode_length=5, terminate_on_goal=True)
    env = room.make(torch.tensor([[1, 0], [2, 2], [0, 1], [2, 1]]), generator)
    agent = make_agent(model, generator, kv_cache=kv_cache, control="one-episode")
    agent.memory = memory = RecordedMemory(agent.memory)
    (block,) = interact(env, agent, num_steps=60, block_steps=60, generator=generator)
    steps, logits = memory.whole(), torch.stack(list(memory.logits), dim=1)
    assert torch.equal(steps.previous_action[:, 1:], block.action[:, :-1])
    assert torch.equal(steps.previous_reward[:, 1:], block.reward[:, :-1])
    for row in range(4):
        starts = [*steps.episode_start[row].nonzero()[:, 0].tolist(), 60]
        assert len(starts) > 12
        for first, last in pairwise(starts):
            episode = steps.part(first, last, slice(row, row + 1))
            with torch.no_grad():
                alone = model(episode).policy
            torch.testing.assert_close(logits[row : row + 1, first:last], alone)


def test_variable_length_episodes_are_counted_one_by_one():
    generator = torch.Generator().manual_seed(0)
    room = DarkRoomHard(size=3, episode_length=5, terminate_on_goal=True)
    env = room.make(torch.tensor([[1, 0], [2, 2]]), generator)
    result = rollout(make_model(env), env, num_episodes=6, generator=generator)
    assert result.returns.shape == (2, 6)
    assert set(result.returns.flatten().tolist()) <= {0.0, 1.0}


def test_zero_episodes_and_foreign_spaces_are_refused():
    env, generator = make_room()
    model = make_model(env)
    with pytest.raises(UserError, match="num_episodes=0 must be at least 1"):
        rollout(model, env, num_episodes=0, generator=generator)
    other, generator = make_room(goals=GOALS[:1], size=5)
    with pytest.raises(UserError, match=r"observation_space: the model was trained for"):
        rollout(model, other, num_episodes=1, generator=generator)


def test_learned_positions_refuse_a_rollout_that_would_slide():
    env, generator = make_room()
    model = make_model(env, positions="learned", context=8)
    rollout(model, env, num_episodes=2, generator=generator)
    with pytest.raises(UserError, match="cannot slide, but 12 tokens"):
        rollout(model, env, num_episodes=3, generator=generator)
    with pytest.raises(UserError, match=r"context=12: positions=learned .* leave --context out"):
        rollout(model, env, num_episodes=2, generator=generator, context=12)


def test_a_window_must_hold_a_step():
    with pytest.raises(UserError, match=r"context=2 must hold at least one step"):
        play(make_model(make_room()[0], layout="interleaved"), num_episodes=1, context=2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_a_compiled_step_has_the_same_logits_around_the_ring():
    model = make_model(make_room()[0], context=8)
    memories = [model.make_memory(4, compile=flag) for flag in (False, True)]
    steps = random_steps(30)
    with torch.inference_mode():
        for step in steps:
            expected, actual = (memory.predict(step) for memory in memories)
            torch.testing.assert_close(actual, expected)


def test_compiling_the_step_is_for_gpus():
    with pytest.raises(UserError, match=r"C\+\+ already"):
        play(make_model(make_room()[0]), num_episodes=1, compile=True)


def test_only_the_cached_step_can_be_compiled():
    with pytest.raises(UserError, match="--kv-cache"):
        play(make_model(make_room()[0]), num_episodes=1, compile=True, kv_cache=False)


def random_steps(count):
    generator = torch.Generator().manual_seed(2)
    return [
        Steps(
            torch.randint(3, (4, 1, 2), generator=generator),
            torch.randint(5, (4, 1), generator=generator),
            torch.rand((4, 1), generator=generator),
            torch.tensor([[step % 4 == 0]] * 4),
            torch.tensor([[step % 4]] * 4),
        )
        for step in range(count)
    ]
