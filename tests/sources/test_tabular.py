from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastad_kernels import QTables, native

from fastad.acting.interact import Transition
from fastad.envs.dark_room import DarkRoom
from fastad.envs.registry import make_family
from fastad.envs.split import split_tasks
from fastad.sources.actor_critic import ActorCritic
from fastad.sources.q_learning import QLearning

TINY = {"size": 3, "episode_length": 6}
UP = 1


def tiny(source: type, **options: Any) -> Any:
    """A learner in a 3 x 3 room; cell 4 is the centre, cell 3 the goal above it."""
    generator = torch.Generator().manual_seed(0)
    env = DarkRoom(**TINY).make(torch.tensor([[1, 0]]), generator)
    learner = source(env, num_episodes=1, generator=generator, **options)
    learner.act(env.reset())
    return learner


def step_up(learner: Any, *, truncated: bool = False, terminated: bool = False) -> None:
    """From the centre up to the goal, for a reward of 1."""
    flags = [torch.tensor([flag]) for flag in (terminated, truncated)]
    step = Transition(
        torch.tensor([[1, 1]]), torch.tensor([UP]), torch.ones(1), *flags, torch.zeros(1, 5)
    )
    learner.observe(step, torch.tensor([[1, 0]]))


def test_q_learning_makes_the_textbook_update() -> None:
    plain = {"learning_rate": 0.5, "gamma": 0.9, "initial_value": 0.2, "replay_sweeps": 0}
    learner = tiny(QLearning, **plain)
    step_up(learner, truncated=True)
    # 0.2 + 0.5 (1 + 0.9 * 0.2 - 0.2): a time limit bootstraps.
    assert learner.q[4, UP].item() == pytest.approx(0.69)
    learner = tiny(QLearning, **plain)
    step_up(learner, terminated=True)
    # 0.2 + 0.5 (1 - 0.2)
    assert learner.q[4, UP].item() == pytest.approx(0.6)
    assert (learner.q != 0.2).sum() == 1


def test_replay_repeats_the_update_when_the_episode_ends() -> None:
    learner = tiny(QLearning, learning_rate=0.5, gamma=0.0, initial_value=0.0, replay_sweeps=2)
    step_up(learner)
    assert learner.q[4, UP].item() == pytest.approx(0.5)
    step_up(learner, truncated=True)  # .75; then twice two steps: 1 - .25 / 2^4
    assert learner.q[4, UP].item() == pytest.approx(1 - 0.25 / 16)


def test_q_learning_policy_is_softmax_mixed_with_uniform() -> None:
    learner = tiny(QLearning, temperature=0.5, epsilon=0.2)
    learner.q[4] = torch.tensor([0.0, 1.0, 0.5, 0.0, -1.0])
    expected = 0.8 * torch.softmax(learner.q[4] / 0.5, dim=0) + 0.04
    torch.testing.assert_close(learner.policy(torch.tensor([4]))[0], expected)
    greedy = tiny(QLearning, temperature=0.0)
    greedy.q[4] = torch.tensor([0.0, 1.0, 1.0, 0.0, -1.0])
    expected = torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0])
    torch.testing.assert_close(greedy.policy(torch.tensor([4]))[0], expected)


@pytest.mark.parametrize("replay_sweeps", [0, 3])
def test_q_learning_finds_the_optimum_of_a_small_room(
    learn: Callable[..., Any], replay_sweeps: int
) -> None:
    # No discounted return exceeds 1 / (1 - 0.9) = 10: starting there, greed alone finds the
    # optimum, which is 6 beside the centre and 5 in a corner.
    run = learn(
        "dark-room", "q-learning", env_kwargs=TINY, num_episodes=120, temperature=0.0,
        initial_value=10.0, replay_sweeps=replay_sweeps,
    )  # fmt: skip
    assert run.returns[:, -1].tolist() == [5, 6, 5, 6, 6, 5, 6, 5]


def test_q_learning_learns_both_phases_of_key_to_door(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[0, 0, 2, 2]]).repeat(20, 1)
    shape = {"size": 3, "episode_length": 15}
    run = learn("dark-key-to-door", "q-learning", tasks=tasks, env_kwargs=shape, num_episodes=60)
    assert run.returns[:, -10:].mean() > 1.9


def test_actor_critic_makes_the_textbook_update() -> None:
    rates = {"actor_rate": 0.5, "critic_rate": 0.1, "gamma": 0.9, "entropy": 0.0}
    learner = tiny(ActorCritic, initial_value=0.5, **rates)
    step_up(learner, truncated=True)
    # d = 1 + 0.9 * 0.5 - 0.5 = 0.95; V = 0.5 + 0.1 d; logits = 0.5 d (onehot - 1/5).
    assert learner.values[4].item() == pytest.approx(0.595)
    expected = 0.475 * torch.tensor([-0.2, 0.8, -0.2, -0.2, -0.2])
    torch.testing.assert_close(learner.logits[4], expected)


def test_lambda_returns_reach_back_through_the_episode() -> None:
    rates = {"critic_rate": 0.1, "gamma": 0.5, "trace_decay": 0.5, "entropy": 0.0}
    learner = tiny(ActorCritic, initial_value=0.0, **rates)
    step_up(learner)
    step_up(learner, terminated=True)
    # Recorded twice from the centre: G1 = 1, V(centre) = 0.1; V(goal) = 0, so that
    # G0 = 1 + 0.5 (0.5 * 0 + 0.5 * 1) = 1.25 and V(centre) = 0.1 + 0.1 (1.25 - 0.1).
    assert learner.values[4].item() == pytest.approx(0.215)


def test_the_entropy_bonus_pulls_towards_uniform() -> None:
    learner = tiny(ActorCritic, actor_rate=1.0, gamma=0.0, entropy=0.3)
    learner.logits[4] = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0])
    learner.values[4] = 1.0  # the reward of 1 is no surprise: only the bonus acts
    learner.policy(torch.tensor([4]))
    logits = learner.logits[4].clone().requires_grad_()
    torch.distributions.Categorical(logits=logits).entropy().backward()
    expected = logits.detach() + 0.3 * logits.grad
    step_up(learner, terminated=True)
    torch.testing.assert_close(learner.logits[4], expected)


def test_actor_critic_learns_dark_room(learn: Callable[..., Any]) -> None:
    run = learn("dark-room", "actor-critic", num_episodes=100)
    means = run.returns.mean(dim=0)
    # Random walks find a goal for 0.25 on average; the optimum is 16.5.
    assert means[0] < 1.0
    assert means[-10:].mean() > 14.9  # 14.3 without optimism


def test_more_optimism_ends_higher_in_dark_room(learn: Callable[..., Any]) -> None:
    more = {"initial_value": 2.0, "trace_decay": 0.5, "entropy": 0.1}
    run = learn("dark-room", "actor-critic", num_episodes=100, **more)
    assert run.returns[:, -10:].mean() > 15.3


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("dark-room", {}),
        ("dark-key-to-door", {"learning_rate": 0.6, "epsilon": 0.1}),
        ("dark-room-permuted", {"temperature": 0.0}),
    ],
)
def test_q_learning_without_a_compiler_makes_the_same_histories(
    learn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, env: str, options: dict[str, Any]
) -> None:
    if options and native.lerp_is_fused() is None:
        pytest.skip("torch.lerp rounds now so, now so on this processor")
    tasks = split_tasks(make_family(env), num_train=50, num_validation=0, num_test=1, seed=0).train
    quick = learn(env, "q-learning", tasks=tasks, num_episodes=5, **options)
    monkeypatch.setattr(native, "why_unavailable", lambda: "no compiler")
    plain = learn(env, "q-learning", tasks=tasks, num_episodes=5, **options)
    assert type(plain.source._tables) is QTables
    assert all(map(torch.equal, quick.history, plain.history))
    assert torch.equal(quick.source.q, plain.source.q)
