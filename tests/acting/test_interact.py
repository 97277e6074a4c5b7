from typing import Any

import pytest
import torch
from torch import Tensor

from fastad.acting.interact import Transition, episode_returns, interact
from fastad.envs.dark_room import DarkRoom

RIGHT = 2


class AlwaysRight:
    """Wants to go right, whatever happens, and writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[Transition, Tensor]] = []

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        action = torch.full((len(observation),), RIGHT)
        return action, torch.nn.functional.one_hot(action, 5).float()

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        self.seen.append((transition, final_observation))


def run(num_envs: int = 1, **options: Any) -> tuple[AlwaysRight, list[Transition]]:
    """A room of 5 x 5, start at (2, 2), episodes of 3 steps, the goal at (3, 2)."""
    generator = torch.Generator().manual_seed(0)
    tasks = torch.tensor([[3, 2]]).repeat(num_envs, 1)
    env = DarkRoom(size=5, episode_length=3).make(tasks, generator)
    agent = AlwaysRight()
    settings = {"num_steps": 7, "block_steps": 3} | options
    return agent, list(interact(env, agent, generator=generator, **settings))


def test_blocks_are_histories_by_steps_and_the_last_is_shorter() -> None:
    _, blocks = run(num_envs=2)
    assert [tuple(block.reward.shape) for block in blocks] == [(2, 3), (2, 3), (2, 1)]
    assert blocks[0].observation.shape == (2, 3, 2)
    assert blocks[0].policy.shape == (2, 3, 5)


def test_a_block_pairs_each_action_with_the_observation_before_it() -> None:
    _, blocks = run()
    # Right, right, right against the wall; then the next episode.
    assert blocks[0].observation[0].tolist() == [[2, 2], [3, 2], [4, 2]]
    assert blocks[0].reward[0].tolist() == [1, 0, 0]
    assert blocks[0].truncated[0].tolist() == [False, False, True]
    assert blocks[1].observation[0, 0].tolist() == [2, 2]


def test_the_agent_is_told_where_the_step_ended_before_the_reset() -> None:
    agent, _ = run()
    assert [end[0].tolist() for _, end in agent.seen[:4]] == [[3, 2], [4, 2], [4, 2], [3, 2]]


def test_whoever_takes_a_block_may_learn_from_it() -> None:
    """Steps are taken in inference mode; blocks are ordinary tensors, outside of it."""
    generator = torch.Generator().manual_seed(0)
    env = DarkRoom(size=5, episode_length=3).make(torch.tensor([[3, 2]]), generator)
    for block in interact(env, AlwaysRight(), num_steps=7, block_steps=3, generator=generator):
        assert not torch.is_inference_mode_enabled()
        weight = torch.ones(5, requires_grad=True)
        (weight * block.policy).sum().backward()
        assert weight.grad is not None
        block.reward.add_(1.0)


def test_blocks_do_not_depend_on_their_size() -> None:
    whole, parts = (
        [torch.cat(field, dim=1) for field in zip(*run(3, block_steps=size)[1], strict=True)]
        for size in (7, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_action_noise_changes_actions_and_leaves_the_distribution_clean() -> None:
    agent, blocks = run(20_000, num_steps=3, action_noise=0.5)
    frequency = torch.bincount(blocks[0].action.flatten(), minlength=5) / 60_000
    expected = torch.full((5,), 0.1)
    expected[RIGHT] = 0.6
    # Five standard deviations: 5 * sqrt(0.6 * 0.4 / 60,000) = 0.01.
    torch.testing.assert_close(frequency, expected, atol=0.01, rtol=0)
    assert (blocks[0].policy[..., RIGHT] == 1).all()
    # The agent learns from what was executed, not from what it wanted.
    assert torch.equal(agent.seen[0][0].action, blocks[0].action[:, 0])


def test_labels_of_executed_actions_are_the_distribution_that_those_are_drawn_from() -> None:
    agent, blocks = run(20_000, num_steps=3, action_noise=0.5, noise_labels="executed")
    expected = torch.full((5,), 0.1)
    expected[RIGHT] = 0.6
    torch.testing.assert_close(blocks[0].policy, expected.expand(20_000, 3, 5))
    # The labels change, not what happens; the agent is still told its own distribution.
    _, clean = run(20_000, num_steps=3, action_noise=0.5)
    assert torch.equal(blocks[0].action, clean[0].action)
    assert (agent.seen[0][0].policy[:, RIGHT] == 1).all()


def test_no_action_noise_executes_what_the_agent_wants() -> None:
    _, blocks = run(100)
    assert all((block.action == RIGHT).all() for block in blocks)


def test_returns_of_episodes_of_different_lengths() -> None:
    reward = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    ended = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 1, 1]]).bool()
    assert episode_returns(reward, ended, 2).tolist() == [[3, 7], [1, 9]]


@pytest.mark.parametrize("num_episodes", [1, 3])
def test_later_episodes_are_left_out_of_the_returns(num_episodes: int) -> None:
    returns = episode_returns(torch.ones(1, 4), torch.ones(1, 4).bool(), num_episodes)
    assert returns.tolist() == [[1.0] * num_episodes]
