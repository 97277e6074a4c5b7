"""Steps embedded by one call of the C++ kernels: the plain forward is the specification."""

import itertools

import numpy as np
import pytest
import torch
from fastad_kernels import native
from gymnasium import spaces

from fastad.model.config import ModelConfig
from fastad.model.embedding import StepEmbedding
from fastad.steps import Steps

NUM_ACTIONS, EPISODE, CONTEXT = 5, 6, 12
SPACES = {
    "discrete": spaces.Discrete(7, start=3),
    "coordinates": spaces.MultiDiscrete([4, 9, 2]),
    "vector": spaces.Box(-1.0, 1.0, (3,), np.float32),
}
KINDS = list(itertools.product(("fused", "interleaved"), ("none", "rope", "alibi", "learned")))

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason="the C++ kernels cannot be compiled here"
)


def make_embedding(layout, positions, space, **settings):
    torch.manual_seed(0)
    config = ModelConfig(
        context=CONTEXT, width=20, num_heads=2, layout=layout, positions=positions, **settings
    )
    return StepEmbedding(config, space, NUM_ACTIONS, EPISODE, 0.3, 1.7).eval()


def make_steps(space, batch, length):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, length)
    space.seed(1)
    drawn = np.stack([space.sample() for _ in range(batch * length)])
    action = torch.randint(NUM_ACTIONS + 1, shape, generator=generator)
    action[0] = NUM_ACTIONS  # none
    step = torch.randint(2 * EPISODE, shape, generator=generator)  # beyond the last, too
    observation = torch.as_tensor(drawn).reshape(*shape, *space.shape)
    return Steps(observation, action, torch.randn(shape, generator=generator), step == 0, step)


def make_positions(embedding, batch, length):
    tokens = length if embedding.fused else 3 * length
    return (torch.arange(tokens) + torch.arange(batch)[:, None]) % CONTEXT


def both(embedding, steps, positions):
    return [embedding(steps, positions, impl) for impl in ("sdpa", "native")]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("layout", "scheme"), KINDS)
@torch.no_grad()
def test_steps_embedded_at_once_are_those_of_the_plain_forward(layout, scheme, space, threads):
    embedding = make_embedding(layout, scheme, SPACES[space])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch, length in ((1, 1), (3, 2), (70, 1)):
            steps = make_steps(SPACES[space], batch, length)
            positions = make_positions(embedding, batch, length)
            plain, at_once = both(embedding, steps, positions)
            torch.testing.assert_close(at_once, plain, atol=1e-6, rtol=1e-6)
            per_env = [
                embedding(Steps(*(f[n : n + 1] for f in steps)), positions[n : n + 1], "native")
                for n in range(batch)
            ]
            assert torch.equal(torch.cat(per_env), at_once)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@torch.no_grad()
def test_a_model_without_episode_steps_embeds_none(layout):
    space = SPACES["coordinates"]
    embedding = make_embedding(layout, "none", space, episode_step=False)
    plain, at_once = both(embedding, make_steps(space, 3, 2), None)
    torch.testing.assert_close(at_once, plain, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_first_reward_counts_as_none_whatever_it_is():
    space = SPACES["discrete"]
    embedding = make_embedding("fused", "none", space)
    steps = make_steps(space, 1, 1)
    steps = steps._replace(previous_reward=torch.full((1, 1), torch.nan))
    plain, at_once = both(embedding, steps, None)
    assert at_once.isfinite().all()
    torch.testing.assert_close(at_once, plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_action", NUM_ACTIONS + 1), ("previous_action", -1), ("observation", 2),
        ("observation", 10), ("episode_step", -1),
    ],
)  # fmt: skip
@torch.no_grad()
def test_numbers_without_a_row_are_refused_and_not_read(field, value):
    space = SPACES["discrete"]  # 3 to 9
    embedding = make_embedding("fused", "none", space)
    steps = make_steps(space, 3, 1)
    getattr(steps, field)[1, 0] = value
    with pytest.raises(IndexError, match="1 of 3 steps"):
        embedding(steps, None, "native")


@torch.no_grad()
def test_positions_beyond_the_learned_ones_are_refused():
    space = SPACES["discrete"]
    embedding = make_embedding("interleaved", "learned", space)
    steps, positions = make_steps(space, 2, 1), make_positions(embedding, 2, 1)
    positions[1, 2] = CONTEXT
    with pytest.raises(IndexError, match="1 of 2 steps"):
        embedding(steps, positions, "native")


def test_where_gradients_are_wanted_the_plain_forward_gives_them():
    space = SPACES["coordinates"]
    embedding = make_embedding("fused", "none", space)
    embedding(make_steps(space, 2, 3), None, "native").sum().backward()
    assert embedding.action.weight.grad is not None
