"""Stable-Baselines3's algorithms as sources: every step is there, with what it was drawn from."""

import math
import random
import sys

import numpy as np
import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.one_task import OneTask
from fastad.envs.registry import make_family
from fastad.sources.registry import is_at_hand, make_source, source_class, source_options
from fastad.sources.visited import Follower

sb3 = pytest.importorskip("stable_baselines3")

ROOM = {"size": 3, "episode_length": 8}
BROKEN = np.zeros(4, np.float32), float("nan"), False, False, {}
PPO = {"n_steps": 16, "batch_size": 8, "n_epochs": 2}
SMALL = {"policy_kwargs": {"net_arch": [16]}}


def cart_pole(episode_length):
    return make_family("gym:CartPole-v1", tasks="seeds", episode_length=episode_length)


def pendulum():
    return make_family("gym:Pendulum-v1", tasks="seeds")


def learn(family, source, *, num_steps, num_tasks=1, seed=0, block_steps=None, **options):
    """The learners, and all that happened to them as one block."""
    generator = torch.Generator().manual_seed(seed)
    tasks = family.tasks()
    tasks = family.sample(num_tasks, "train", generator) if tasks is None else tasks[:num_tasks]
    env = family.make(tasks, generator)
    num_episodes = num_steps // env.episode_length
    learners = make_source(source, env, num_episodes=num_episodes, generator=generator, **options)
    blocks = learners.run(
        env, num_steps=num_steps, block_steps=block_steps or num_steps, generator=generator
    )
    (history,) = (block for block in blocks if block.reward.shape[1] > 0)
    return env, learners, history


def test_every_step_of_dark_room_is_recorded_with_its_true_end():
    env, _, history = learn(
        make_family("dark-room", **ROOM), "sb3:PPO", num_steps=40, num_tasks=3, **PPO
    )
    assert history.reward.shape == (3, 40)
    assert history.policy.shape == (3, 40, 5)
    assert not history.terminated.any()
    ends = torch.zeros(40, dtype=torch.bool)
    ends[7::8] = True
    assert (history.truncated == ends).all()
    # The environment itself says what the actions led to.
    observation = env.reset()
    for step in range(40):
        assert torch.equal(history.observation[:, step], observation)
        observation, reward, _, truncated = env.step(history.action[:, step])
        assert torch.equal(history.reward[:, step], reward)
        assert torch.equal(history.truncated[:, step], truncated)


def test_the_distribution_is_that_of_the_network_before_it_learned(monkeypatch):
    """PPO of 16 steps learns after 16: until then it is the model as the same seed makes it."""
    env, learners, history = learn(make_family("dark-room", **ROOM), "sb3:PPO", num_steps=40, **PPO)
    model = sb3.PPO(
        "MlpPolicy", OneTask(env.family, env.tasks[0]), seed=learners._seeds[0], device="cpu", **PPO
    )
    seen = torch.as_tensor(history.observation[0])
    with torch.no_grad():
        probs = model.policy.get_distribution(seen).distribution.probs
    torch.testing.assert_close(history.policy[0, :16], probs[:16], rtol=0, atol=1e-6)
    assert (history.policy[0, 16:] - probs[16:]).abs().max() > 1e-4


def test_actions_are_drawn_from_what_is_recorded():
    """Among 2,000 steps each action is taken as often as its probabilities add up to."""
    options = {"n_steps": 500, "batch_size": 100, "n_epochs": 1, "learning_rate": 0.01}
    _, _, history = learn(make_family("dark-room", **ROOM), "sb3:PPO", num_steps=2000, **options)
    taken = torch.nn.functional.one_hot(history.action[0], 5).float()
    spread = (history.policy[0] * (1 - history.policy[0])).sum(0).sqrt()
    assert ((taken - history.policy[0]).sum(0).abs() < 4 * spread).all()


def test_dqn_is_recorded_as_the_greedy_action_mixed_with_epsilon():
    """Epsilon falls linearly from 1 to 0.1 over the first half of 200 steps."""
    options = {
        "learning_starts": 20, "exploration_fraction": 0.5, "exploration_final_eps": 0.1, **SMALL
    }  # fmt: skip
    _, learners, history = learn(
        make_family("dark-room", **ROOM), "sb3:DQN", num_steps=200, **options
    )
    policy = history.policy[0]
    torch.testing.assert_close(policy.sum(-1), torch.ones(200))
    assert (policy[:20] == 0.2).all()  # before it learns, any of 5
    steps = torch.arange(20, 200)
    epsilon = (1 - 0.9 * steps / 100).clamp(min=0.1)
    torch.testing.assert_close(policy[20:].amin(-1), epsilon / 5)
    torch.testing.assert_close(policy[20:].amax(-1), 1 - epsilon * 4 / 5)
    assert learners.knows == "how many steps there will be"


def test_episodes_of_cart_pole_end_where_the_pole_falls_and_at_the_limit():
    """A pole pushed at random falls after some 10 to 60 steps."""
    _, _, history = learn(cart_pole(15), "sb3:A2C", num_steps=900, **SMALL)
    ended = history.terminated | history.truncated
    lengths = torch.diff(ended[0].nonzero().flatten(), prepend=torch.tensor([-1]))
    assert history.terminated.any()
    assert history.truncated.any()
    at_limit = lengths == 15
    assert (lengths <= 15).all()
    # Where the pole falls at the very limit, both are true.
    assert (history.truncated[ended] == at_limit).all()
    # Every episode begins as Gymnasium's do: near 0, where no later step is in all four numbers.
    starts = torch.cat((torch.tensor([True]), ended[0, :-1]))
    assert (history.observation[0, starts].abs() <= 0.05).all()
    assert history.observation.dtype == torch.float32


def test_a_gaussian_is_clipped_to_the_box_as_it_is_recorded():
    """PPO's first standard deviation is 1, and Pendulum's torque ends at 2: 1 in 22 is cut."""
    family = pendulum()
    _, learners, history = learn(
        family, "sb3:PPO", num_steps=600, n_steps=300, batch_size=100, **SMALL
    )
    assert history.action.shape == (1, 600, 1)
    assert history.policy.shape == (1, 600, 2)
    assert history.action.abs().max() == 2.0
    assert not learners.squashes
    mean, log_std = history.policy[0, :300].chunk(2, dim=-1)
    assert (log_std == 0).all()
    within = history.action[0, :300].abs() < 2
    place = torch.special.ndtr((history.action[0, :300] - mean)[within])
    # Places in a distribution are uniform: means of 280 lie within 4 standard errors of 1/2.
    assert abs(place.mean() - 0.5) < 4 / math.sqrt(12 * len(place)) + 0.02
    assert 0.01 < 1 - within.float().mean() < 0.1


def test_a_squashed_gaussian_is_recorded_before_the_hyperbolic_tangent():
    family = pendulum()
    env, learners, history = learn(
        family, "sb3:SAC", num_steps=400, learning_starts=200, learning_rate=0.0, **SMALL
    )
    assert learners.squashes
    mean, log_std = history.policy[0].chunk(2, dim=-1)
    # Uniform in the box: atanh of it is logistic, of standard deviation pi / sqrt(12).
    assert (mean[:200] == 0).all()
    torch.testing.assert_close(log_std[:200].exp(), torch.full((200, 1), 0.9069), atol=1e-4, rtol=0)
    # It learns nothing at rate 0, so that its policies at the end are those that it acted by.
    visited = Follower(env).follow(history)
    torch.testing.assert_close(
        learners.would_act(visited)[:, 200:], history.policy[:, 200:], rtol=1e-4, atol=1e-5
    )
    drawn = (history.action[0] / 2).clamp(-1 + 1e-6, 1 - 1e-6).atanh()
    place = torch.special.ndtr((drawn - mean) / log_std.exp())[200:]
    assert abs(place.mean() - 0.5) < 4 / math.sqrt(12 * 200)
    assert abs(place.var() - 1 / 12) < 0.02


def test_what_has_no_distribution_has_none_recorded():
    family = pendulum()
    _, learners, history = learn(
        family, "sb3:TD3", num_steps=200, learning_starts=150, action_noise=0.1, **SMALL
    )
    assert not learners.has_policy
    assert history.policy.shape == (1, 200, 0)


def test_learners_would_act_by_their_last_policies():
    env, learners, history = learn(
        make_family("dark-room", **ROOM), "sb3:A2C", num_steps=80, num_tasks=2, **SMALL
    )
    final = learners.would_act(Follower(env).follow(history))
    assert final.shape == history.policy.shape
    torch.testing.assert_close(final.sum(-1), torch.ones(2, 80))
    # A2C of 5 steps has learned from 5 more than the last step knew of.
    assert 0 < (final[:, -1] - history.policy[:, -1]).abs().max() < 0.2
    assert (final[:, 0] - history.policy[:, 0]).abs().max() > 0


def test_the_same_seed_gives_the_same_history_whatever_else_is_drawn():
    family = make_family("dark-room", **ROOM)
    _, _, first = learn(family, "sb3:PPO", num_steps=40, num_tasks=2, seed=1, **PPO)
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    _, _, same = learn(family, "sb3:PPO", num_steps=40, num_tasks=2, seed=1, **PPO)
    _, _, other = learn(family, "sb3:PPO", num_steps=40, num_tasks=2, seed=2, **PPO)
    assert torch.equal(first.action, same.action)
    assert torch.equal(first.policy, same.policy)
    assert not torch.equal(first.action, other.action)
    assert not torch.equal(first.action[0], first.action[1])


def test_the_random_numbers_of_others_are_left_as_they_were():
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    learn(make_family("dark-room", **ROOM), "sb3:PPO", num_steps=40, **PPO)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_of_several_environments_the_first_is_recorded_and_the_others_are_counted():
    _, learners, history = learn(
        make_family("dark-room", **ROOM), "sb3:A2C", num_steps=40, n_envs=3
    )
    assert learners.episodes_per_episode == 3
    assert history.truncated[0].nonzero().flatten().tolist() == [7, 15, 23, 31, 39]


def test_a_class_is_found_by_its_place():
    assert source_class("sb3:stable_baselines3.ppo.ppo:PPO").algorithm is sb3.PPO
    assert is_at_hand("sb3:PPO")
    assert not is_at_hand("sb3:PPQ")
    options = source_options("sb3:PPO")
    assert options["n_steps"] == 2048
    assert options["n_envs"] == 1
    assert not {"env", "seed", "device", "verbose"} & options.keys()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sb3:PPQ", "unknown source 'sb3:PPQ'; did you mean 'sb3:PPO'?"),
        ("sb3:no.where:PPO", "source 'sb3:no.where:PPO' is not there: No module named 'no'"),
        ("sb3:torch:Tensor", "no class of Stable-Baselines3's algorithms"),
    ],
)
def test_what_is_no_algorithm_is_refused(source, message):
    with pytest.raises(UserError, match=message):
        source_class(source)


def test_a_class_that_cannot_act_there_is_refused_with_those_that_can():
    with pytest.raises(UserError, match=r"sb3:SAC.* cannot learn env 'dark-room' .*Discrete\(5\)"):
        learn(make_family("dark-room"), "sb3:SAC", num_steps=20)
    with pytest.raises(UserError, match=r"Box.*; choose one of: sb3:A2C, sb3:DDPG, sb3:PPO, sb3"):
        learn(pendulum(), "sb3:DQN", num_steps=200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1}, "unknown option of sb3:PPO 'learning_rat'; did you mean 'learning_r"),
        ({"learning_rate": "fast"}, "sb3:PPO.*learning rate schedule must be a float.*not fast"),
        ({"policy": "Mlp"}, "sb3:PPO.*Policy Mlp unknown"),
        ({"policy_kwargs": {"activation_fn": "torch.nn:Tanhh"}}, "Tanhh.*is not there"),
        ({"n_envs": 0}, "n_envs=0 must be a whole number, at least 1"),
    ],
)
def test_options_that_are_not_possible_are_refused_before_anything_runs(options, message):
    with pytest.raises(UserError, match=message):
        learn(make_family("dark-room", **ROOM), "sb3:PPO", num_steps=40, **options)


def test_a_missing_library_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(UserError, match=r"not installed: run .*pip install .*sb3\]"):
        source_class("sb3:Nothing")


def test_a_reward_that_is_no_number_is_refused_at_its_step(monkeypatch):
    monkeypatch.setattr("gymnasium.envs.classic_control.CartPoleEnv.step", lambda *_: BROKEN)
    with pytest.raises(UserError, match="step 1: the reward is nan, and must be a finite number"):
        learn(cart_pole(9), "sb3:A2C", num_steps=90)


def test_dictionaries_and_tuples_are_seen_by_their_parts_and_stored_packed():
    family = make_family("gym:Blackjack-v1", tasks="seeds", episode_length=10)
    env, learners, history = learn(family, "sb3:PPO", num_steps=40, **PPO)
    assert OneTask(family, env.tasks[0]).observation_space.keys() == {"0", "1", "2"}
    assert history.observation.dtype == torch.uint8
    final = learners.would_act(Follower(env).follow(history))
    torch.testing.assert_close(final.sum(-1), torch.ones(1, 40))
