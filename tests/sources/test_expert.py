from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom
from fastad.sources.expert import Noise


def noise(**options: Any) -> Noise:
    """Ten steps of two episodes in a room whose goal is up from the centre."""
    generator = torch.Generator().manual_seed(0)
    env = DarkRoom(episode_length=5).make(torch.tensor([[4, 3]]), generator)
    return Noise(env, num_episodes=2, generator=generator, **options)


@pytest.mark.parametrize("env", ["dark-room", "dark-room-hard"])
def test_the_expert_is_optimal_from_the_first_episode(learn: Callable[..., Any], env: str) -> None:
    run = learn(env, "expert", num_episodes=2)
    assert torch.equal(run.returns, run.env.optimal_return()[:, None].expand(-1, 2))


def test_the_expert_finds_key_and_door_at_once(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[0, 0, 8, 8], [3, 4, 3, 4]]).repeat(20, 1)
    assert (learn("dark-key-to-door", "expert", tasks=tasks, num_episodes=2).returns == 2).all()


def test_the_expert_pulls_the_best_arm(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[0.2, 0.9, 0.4], [0.5, 0.1, 0.5]])
    run = learn(
        "bernoulli-bandit", "expert", tasks=tasks, env_kwargs={"num_arms": 3}, num_episodes=30
    )
    assert (run.history.action[0] == 1).all()
    assert set(run.history.action[1].tolist()) == {0, 2}


def test_epsilon_falls_linearly_by_steps_and_stays_where_it_ends() -> None:
    source = noise(final_epsilon=0.2, decay_fraction=0.5)
    epsilons = []
    for _ in range(7):
        epsilons.append(source.epsilon)
        source.observe(None, torch.zeros(1))  # type: ignore[arg-type]
    # Half of ten steps: from 1 to 0.2 in five.
    assert epsilons == pytest.approx([1.0, 0.84, 0.68, 0.52, 0.36, 0.2, 0.2])


def test_what_is_stored_is_the_mixture_that_actions_are_drawn_from() -> None:
    source = noise(decay_fraction=0.5)
    observation = torch.tensor([[4, 4]])
    torch.testing.assert_close(source.policy(observation), torch.full((1, 5), 0.2))
    for _ in range(4):
        source.observe(None, torch.zeros(1))  # type: ignore[arg-type]
    # Epsilon is 0.2; up, the second action, is the expert's.
    expected = torch.tensor([[0.04, 0.84, 0.04, 0.04, 0.04]])
    torch.testing.assert_close(source.policy(observation), expected)


def test_returns_rise_from_chance_to_the_optimum(learn: Callable[..., Any]) -> None:
    run = learn("dark-room", "noise", num_episodes=20)
    means = run.returns.mean(dim=0)
    assert means[0] < 2.0
    assert 3.0 < means[9] < 15.0
    assert torch.equal(run.returns[:, -2:], run.env.optimal_return()[:, None].expand(-1, 2))


def test_a_suboptimal_end_stays_below_the_optimum(learn: Callable[..., Any]) -> None:
    run = learn("dark-room", "noise", num_episodes=20, final_epsilon=0.5)
    assert 3.0 < run.returns[:, -2:].mean() < 0.9 * run.env.optimal_return().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"final_epsilon": 1.1}, "final_epsilon=1.1"), ({"decay_fraction": 0}, "decay_fraction=0")],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        noise(**options)
