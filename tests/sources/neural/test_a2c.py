"""A2C on probes with known values, its advantages and its gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom
from fastad.sources.neural.a2c import A2C
from tests.sources.neural.probes import Probe, assert_learned, probe

SLOWER = {"learning_rate": 0.01, "entropy": 0.0}


def values(learner: Any, observation: Tensor) -> Tensor:
    """Every network's value of some observations, (M, n)."""
    vectors = learner.actors.inputs(observation, torch.zeros(len(observation), dtype=torch.int64))
    return learner.network.forward(vectors.expand(learner.network.num_networks, -1, -1))[-1][
        ..., -1
    ]


def test_the_value_of_a_reward_that_always_comes_is_that_reward() -> None:
    learner, _ = probe(A2C, Probe("always"), num_episodes=300, **SLOWER)
    assert_learned(values(learner, torch.tensor([0, 1])), torch.ones(16, 2))


def test_a_reward_is_discounted_by_the_steps_to_it() -> None:
    family = Probe("end", episode_length=2)
    learner, _ = probe(A2C, family, num_episodes=300, gamma=0.5, **SLOWER)
    expected = torch.tensor([0.5, 1.0]).expand(16, 2)
    assert_learned(values(learner, torch.tensor([0, 1])), expected)


def test_a_time_limit_bootstraps_where_termination_does_not() -> None:
    # 1 + 0.5 + 0.25 + ... = 2.
    family = Probe("always", truncates=True)
    learner, _ = probe(A2C, family, num_episodes=400, gamma=0.5, **SLOWER)
    assert_learned(values(learner, torch.tensor([0, 1])), torch.full((16, 2), 2.0))


@pytest.mark.parametrize("box", [False, True])
def test_the_value_of_an_observation_is_what_it_pays(box: bool) -> None:
    learner, _ = probe(A2C, Probe("observation", box=box), num_episodes=300, **SLOWER)
    seen = torch.tensor([[-1.0], [1.0]]) if box else torch.tensor([0, 1])
    expected = torch.tensor([-1.0, 1.0]).expand(16, 2)
    assert_learned(values(learner, seen), expected)


def test_every_learner_finds_the_action_that_its_own_task_pays() -> None:
    _, history = probe(A2C, Probe("action"), num_episodes=100)
    tasks = torch.tensor([0, 1]).repeat(8)
    assert (history.policy[torch.arange(16), -1, tasks] > 0.9).all()


@pytest.mark.parametrize("box", [False, True])
def test_every_learner_finds_the_action_that_its_observation_asks_for(box: bool) -> None:
    _, history = probe(A2C, Probe("seen", box=box), num_episodes=150)
    assert history.reward[:, -20:].mean() > 0.95


def rollout(**options: Any) -> A2C:
    """Two learners of three actors after three of four steps, with made-up contents."""
    generator = torch.Generator().manual_seed(0)
    env = DarkRoom(size=3).make(torch.tensor([[0, 0], [2, 2]]), generator)
    learner = A2C(
        env, num_episodes=1, generator=generator, num_actors=3, steps_per_update=4, **options
    )
    for buffer in (*learner._passed, learner._probs, learner._reward, learner._next_value):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    learner._probs.copy_(learner._passed[-1][..., :5].softmax(-1))
    learner._action.random_(5, generator=generator)
    learner._ended[:, 1, 0] = learner._ended[:, 2, 1] = 1  # one truncated, one terminated
    learner._terminated[:, 2, 1] = 1
    return learner


def test_advantages_are_the_sum_of_discounted_surprises_within_an_episode() -> None:
    learner = rollout(gamma=0.9, gae_lambda=0.8)
    value, reward = learner._passed[-1][..., -1], learner._reward
    for row, boundary in ((0, 1), (1, 2), (2, 3)):
        for step in range(4):
            last = boundary if step <= boundary else 3
            expected = torch.zeros(2)
            for later in range(step, last + 1):
                inside = value[:, later + 1, row] if later < last else None
                after = learner._next_value[:, later, row] if inside is None else inside
                if row == 1 and later == 2:
                    after = torch.zeros(2)  # terminated
                surprise = reward[:, later, row] + 0.9 * after - value[:, later, row]
                expected += (0.9 * 0.8) ** (later - step) * surprise
            torch.testing.assert_close(learner.advantages()[:, step, row], expected)


def test_the_gradient_by_hand_is_that_of_the_loss() -> None:
    learner = rollout(entropy=0.3, value_weight=0.7)
    outputs = learner._passed[-1].clone().requires_grad_()
    advantage = learner.advantages()
    target = advantage + outputs[..., -1].detach()
    policy = torch.distributions.Categorical(logits=outputs[..., :-1])
    losses = -policy.log_prob(learner._action) * advantage - 0.3 * policy.entropy()
    losses = losses + 0.7 * (outputs[..., -1] - target).square()
    losses.mean(dim=(1, 2)).sum().backward()
    assert outputs.grad is not None
    torch.testing.assert_close(learner._output_gradient(), outputs.grad)


def test_returns_rise_in_dark_room(learn: Callable[..., Any]) -> None:
    run = learn("dark-room", "a2c", num_episodes=100)
    means = run.returns.mean(dim=0)
    # Random walks find a goal for 0.25 on average; the optimum is 16.5.
    assert means[:3].mean() < 1.0
    assert means[-10:].mean() > 14.5


def test_phases_are_seen_and_told(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[0, 0, 2, 2]]).repeat(30, 1)
    shape = {"size": 3, "episode_length": 15}
    run = learn("dark-key-to-door", "a2c", tasks=tasks, env_kwargs=shape, num_episodes=60)
    assert run.returns[:, -10:].mean() > 1.8
    told = "that an episode pays 2 times at most; what 3 other actors experience"
    assert run.source.knows == told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_actors": 0}, "num_actors=0 must be a whole number, at least 1"),
        ({"steps_per_update": 0}, "steps_per_update=0"),
        ({"width": 0}, "width=0"),
        ({"gae_lambda": 1.5}, "gae_lambda=1.5"),
        ({"max_grad_norm": -1}, "max_grad_norm=-1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        probe(A2C, Probe(), num_episodes=1, **options)
