"""A3C: what is stale and what is not, and that it learns all the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastad.envs.dark_room import DarkRoom
from fastad.sources.neural.a3c import A3C
from tests.sources.neural.probes import Probe, assert_learned, probe

NUM_ACTORS = 3


def make() -> A3C:
    generator = torch.Generator().manual_seed(0)
    env = DarkRoom(size=3).make(torch.tensor([[0, 0], [2, 2]]), generator)
    return A3C(env, num_episodes=1, generator=generator, num_actors=NUM_ACTORS)


def test_actors_hand_in_gradients_in_turn_and_take_what_is_there_then() -> None:
    source = make()
    start = [shared.clone() for shared in source.shared]
    for own, shared in zip(source.network.parameters, start, strict=True):
        assert torch.equal(own, shared.repeat_interleave(NUM_ACTORS, dim=0))
    generator = torch.Generator().manual_seed(1)
    for gradient in source.network.gradients:
        gradient.copy_(torch.randn(gradient.shape, generator=generator))
    gradients = [gradient.clone() for gradient in source.network.gradients]
    source.improve()
    for learner in range(2):
        parameters = [nn.Parameter(shared[learner].clone()) for shared in start]
        adam = torch.optim.Adam(parameters, 0.01, betas=(0.9, 0.99), eps=1e-5)
        for row in range(learner * NUM_ACTORS, (learner + 1) * NUM_ACTORS):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient[row].clone()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            adam.step()
            for own, parameter in zip(source.network.parameters, parameters, strict=True):
                torch.testing.assert_close(own[row], parameter.detach())
        for shared, parameter in zip(source.shared, parameters, strict=True):
            torch.testing.assert_close(shared[learner], parameter.detach())


def test_every_actor_acts_by_its_own_parameters() -> None:
    source = make()
    favourites = torch.tensor([[0, 1, 2], [3, 4, 0]])
    _, bias = source.network.layers[-1]
    bias.view(2, NUM_ACTORS, -1).scatter_(-1, favourites[..., None], 100.0)
    _, policy = source.act(torch.tensor([[1, 1], [1, 1]]))
    assert torch.equal(source._drawn, favourites)
    assert policy.argmax(dim=1).tolist() == [0, 3]


def test_one_actor_is_never_stale_and_learns_as_a2c_does(learn: Callable[..., Any]) -> None:
    one, other = (
        learn("dark-room", source, num_episodes=10, num_actors=1, learning_rate=0.01).history
        for source in ("a2c", "a3c")
    )
    assert torch.equal(one.action, other.action)
    torch.testing.assert_close(one.policy, other.policy)


def test_every_actor_learns_the_value_of_a_discounted_reward() -> None:
    family = Probe("end", episode_length=2)
    # Small steps: Adam's are of one size, and stale ones circle around their target.
    source, _ = probe(A3C, family, num_episodes=600, gamma=0.5, entropy=0.0, learning_rate=3e-4)
    vectors = source.actors.inputs(torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64))
    values = source.network.forward(vectors.expand(64, -1, -1))[-1][..., -1]
    expected = torch.tensor([0.5, 1.0]).expand(64, 2)
    assert_learned(values, expected)


def test_returns_rise_in_dark_room(learn: Callable[..., Any]) -> None:
    run = learn("dark-room", "a3c", num_episodes=100)
    means = run.returns.mean(dim=0)
    assert means[:3].mean() < 1.0
    assert means[-10:].mean() > 14.5  # of 16.5
    assert run.source.knows == "what 3 other actors experience"
