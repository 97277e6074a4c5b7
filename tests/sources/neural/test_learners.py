"""What holds for every source with networks: learners are independent, seeds decide all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

SOURCES = ["a2c", "a3c", "dqn"]


@pytest.mark.parametrize("source", SOURCES)
def test_a_history_does_not_depend_on_what_other_learners_are_to_learn(
    learn: Callable[..., Any], source: str
) -> None:
    shape = {"size": 5, "episode_length": 12, "terminate_on_goal": True}
    near = torch.tensor([[0, 1], [2, 1], [2, 3], [1, 2]])
    far = torch.tensor([[0, 1], [0, 0], [4, 4], [4, 0]])
    one, other = (
        learn("dark-room-hard", source, tasks=tasks, env_kwargs=shape, num_episodes=30)
        for tasks in (near, far)
    )
    assert not torch.equal(one.history.terminated[1], other.history.terminated[1])
    assert torch.equal(one.history.action[0], other.history.action[0])
    torch.testing.assert_close(one.history.policy[0], other.history.policy[0])


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seed_gives_the_same_history_and_another_seed_another(
    learn: Callable[..., Any], source: str
) -> None:
    one, again, other = (
        learn("dark-room", source, num_episodes=5, seed=seed).history for seed in (0, 0, 1)
    )
    assert all(torch.equal(*pair) for pair in zip(one, again, strict=True))
    assert not torch.equal(one.action, other.action)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "num_episodes"), [("a2c", 300), ("dqn", 200)])
def test_learners_find_key_and_door(
    learn: Callable[..., Any], source: str, num_episodes: int
) -> None:
    tasks = torch.randint(9, (64, 4), generator=torch.Generator().manual_seed(0))
    returns = learn("dark-key-to-door", source, tasks=tasks, num_episodes=num_episodes).returns
    assert returns[:, 0].mean() < 0.6
    assert returns[:, -20:].mean() > 1.9  # of 2


def test_one_other_actor_is_told_of_in_the_singular(learn: Callable[..., Any]) -> None:
    alone, two = (
        learn("dark-room", "a2c", num_episodes=1, num_actors=n).source.knows for n in (1, 2)
    )
    assert (alone, two) == ("", "what another actor experiences")
