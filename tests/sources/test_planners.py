from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastad.envs.dark_room import DarkRoom, DarkRoomPermuted
from fastad.envs.key_to_door import DarkKeyToDoor
from fastad.sources.frontier import FAR, Frontier, _distances

TINY = {"size": 3, "episode_length": 6}


def test_ucbvi_ends_at_the_optimum_with_a_bonus_of_the_largest_reward(
    learn: Callable[..., Any],
) -> None:
    # 45 pairs of cell and action, up to 6 of them tried in an episode.
    run = learn("dark-room", "ucbvi", env_kwargs=TINY, num_episodes=45, bonus=1.0)
    assert run.returns[:, -1].tolist() == [5, 6, 5, 6, 6, 5, 6, 5]


def test_ucbvi_settles_within_twenty_episodes(learn: Callable[..., Any]) -> None:
    returns = learn("dark-room", "ucbvi", num_episodes=20).returns.mean(dim=0)
    assert returns[0] < 2.0
    assert returns[-1] > 13.0  # of 16.5


def test_ucbvi_never_tries_twice_what_led_nowhere(learn: Callable[..., Any]) -> None:
    # Without a reward in reach every action is worth trying once in each cell.
    tasks = torch.tensor([[0, 0]]).repeat(8, 1)
    history = learn(
        "dark-room", "ucbvi", tasks=tasks, env_kwargs={"size": 9, "episode_length": 4},
        num_episodes=1,
    ).history  # fmt: skip
    cells = history.observation[..., 0] * 9 + history.observation[..., 1]
    for tried in (cells * 5 + history.action).tolist():
        assert len(set(tried)) == 4


def test_ucbvi_learns_key_then_door(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[0, 0, 2, 2], [1, 1, 1, 1]]).repeat(10, 1)
    shape = {"size": 3, "episode_length": 12}
    run = learn(
        "dark-key-to-door", "ucbvi", tasks=tasks, env_kwargs=shape, num_episodes=30, bonus=0.1
    )
    assert run.returns[:, -5:].mean() == 2.0


def test_ucbvi_learns_that_termination_pays_nothing_more(learn: Callable[..., Any]) -> None:
    shape = {"size": 3, "episode_length": 8, "terminate_on_goal": True}
    run = learn("dark-room-hard", "ucbvi", env_kwargs=shape, num_episodes=40, bonus=0.1)
    assert run.returns[:, -1].tolist() == [1] * 8
    # The history has the steps of 40 full episodes, so more of them that end at the goal.
    assert (run.history.terminated | run.history.truncated).sum(dim=1).min() > 40


def test_frontier_returns_are_those_of_the_experiments(learn: Callable[..., Any]) -> None:
    tasks = DarkRoom().tasks().repeat(8, 1)
    run = learn("dark-room", "frontier", tasks=tasks, num_episodes=10)
    means = run.returns.mean(dim=0)
    assert 2.2 < means[0] < 3.2
    assert 12.8 < means[3] < 14.2
    # Ten episodes of 20 steps suffice to see all 81 cells and to go straight to the goal.
    assert torch.equal(run.returns[:, -1], run.env.optimal_return())


@pytest.mark.parametrize("env", ["dark-room-hard", "dark-room-permuted"])
def test_frontier_finds_the_optimum_of_the_other_rooms(learn: Callable[..., Any], env: str) -> None:
    size = {"env_kwargs": {"size": 9}}
    tasks = torch.tensor([[0, 0, 17], [8, 3, 119], [4, 5, 0]])[:, : 2 + (env != "dark-room-hard")]
    run = learn(env, "frontier", tasks=tasks.repeat(20, 1), num_episodes=11, **size)
    assert torch.equal(run.returns[:, -1], run.env.optimal_return())


def test_frontier_finds_key_and_door(learn: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = torch.randint(9, (200, 4), generator=generator)
    means = learn("dark-key-to-door", "frontier", tasks=tasks, num_episodes=8).returns.mean(dim=0)
    assert 0.6 < means[0] < 1.0
    assert means[-1] > 1.95


def test_frontier_goes_to_any_nearest_unvisited_cell_and_later_to_the_goal(
    learn: Callable[..., Any],
) -> None:
    run = learn("dark-room", "frontier", tasks=torch.tensor([[4, 3]]), num_episodes=4)
    probs = run.history.policy[0]
    torch.testing.assert_close(probs[0], torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25]))
    rewarded = run.history.reward[0].nonzero()[0, 0]
    # On the goal, one above the centre, it stays; from the centre it goes up.
    torch.testing.assert_close(probs[rewarded + 1], torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(probs[60], torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))


def test_frontier_does_nothing_after_the_last_phase(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[4, 3, 4, 5]])
    run = learn(
        "dark-key-to-door", "frontier", tasks=tasks, env_kwargs={"start": "centre"},
        num_episodes=12,
    )  # fmt: skip
    rewards, probs = run.history.reward[0, -50:], run.history.policy[0, -50:]
    # Up to the key, down twice to the door, then still.
    assert rewards.nonzero()[:, 0].tolist() == [0, 2]
    assert run.history.action[0, -50:].tolist() == [1, 3, 3] + [0] * 47
    assert (probs[3:, 0] == 1).all()


def test_frontier_finds_a_reward_that_it_starts_on(learn: Callable[..., Any]) -> None:
    # Cells are crossed off at the start too, but the key is given only on arrival.
    tasks = torch.tensor([[4, 4, 0, 0]]).repeat(20, 1)
    run = learn(
        "dark-key-to-door", "frontier", tasks=tasks, env_kwargs={"start": "centre"},
        num_episodes=12,
    )  # fmt: skip
    assert (run.returns[:, -1] == 2).all()


def test_frontier_says_what_it_knows() -> None:
    assert Frontier.knows == "the movement rules, not the reward"


def test_distances_are_manhattan_and_shared_by_permuted_rooms() -> None:
    tasks = torch.tensor([[0, 0, 0], [0, 0, 77], [0, 0, 119]])
    rules = DarkRoomPermuted(size=5).make(tasks, torch.Generator()).rules()
    graph, distances = _distances(rules.transitions())
    cells = torch.arange(25)
    x, y = cells // 5, cells % 5
    expected = (x[:, None] - x).abs() + (y[:, None] - y).abs()
    assert graph.tolist() == [0, 0, 0]
    assert torch.equal(distances, expected.to(torch.int16)[None])


def test_different_graphs_get_distances_of_their_own() -> None:
    # 0 -> 1 -> 2, a one-way street, and the same one backwards.
    there = torch.tensor([[1], [2], [2]])
    back = torch.tensor([[0], [0], [1]])
    graph, distances = _distances(torch.stack((there, back, there)))
    one_way = torch.tensor([[0, 1, 2], [FAR, 0, 1], [FAR, FAR, 0]], dtype=torch.int16)
    assert torch.equal(distances[graph], torch.stack((one_way, one_way.T, one_way)))


def test_frontier_works_where_the_room_terminates_at_the_door(learn: Callable[..., Any]) -> None:
    tasks = DarkKeyToDoor(size=3).tasks()
    shape = {"size": 3, "episode_length": 20, "terminate_on_door": True}
    run = learn("dark-key-to-door", "frontier", tasks=tasks, env_kwargs=shape, num_episodes=8)
    assert (run.returns[:, -1] == 2).all()
