"""Whole frozen models by one call of the C++ kernels: the model's own forward specifies them."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from fastad_kernels import draw, native
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from tests.kernels.tolerance import assert_as_exact_as_plain

NUM_ACTIONS, EPISODE, CONTEXT = 5, 6, 12
SPACES = {
    "discrete": spaces.Discrete(7, start=3),
    "coordinates": spaces.MultiDiscrete([4, 9, 2]),
    "vector": spaces.Box(-1.0, 1.0, (3,), np.float32),
}
KINDS = list(itertools.product(("fused", "interleaved"), ("none", "rope", "alibi", "learned")))

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)


def make_model(
    layout="fused", positions="none", space="coordinates", actions=NUM_ACTIONS, **settings
):
    torch.manual_seed(0)
    sizes = {"context": CONTEXT, "width": 20, "num_heads": 2, "num_layers": 2}
    config = ModelConfig(**sizes, layout=layout, positions=positions, **settings)
    model = SequenceModel(
        config, SPACES[space], spaces.Discrete(actions), EPISODE, reward_shift=0.3,
        reward_scale=1.7,
    ).eval()  # fmt: skip
    model.kernels = "native"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms that do something
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def make_steps(space, batch, length, actions=NUM_ACTIONS):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, length)
    SPACES[space].seed(1)
    drawn = np.stack([SPACES[space].sample() for _ in range(batch * length)])
    action = torch.randint(actions + 1, shape, generator=generator)
    action[0, 0] = actions  # none
    step = torch.randint(2 * EPISODE, shape, generator=generator)  # beyond the last, too
    observation = torch.as_tensor(drawn).reshape(*shape, *SPACES[space].shape)
    return Steps(observation, action, torch.randn(shape, generator=generator), step == 0, step)


def decode(model, steps, *, at_once=1, rows=slice(None)):
    """Logits of a frozen model that is shown `at_once` steps at a time."""
    steps = steps.map(lambda field: field[rows])
    batch, length = steps.previous_action.shape
    memory = model.make_memory(batch, prompt_steps=at_once)
    pieces = [steps.part(t, t + at_once) for t in range(0, length, at_once)]
    return torch.cat([model(piece, memory).policy for piece in pieces], dim=1)


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n} threads")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("layout", "positions"), KINDS)
@torch.no_grad()
def test_logits_are_those_of_the_plain_forward(layout, positions, space, threads):
    model = make_model(layout, positions, space)
    for batch, at_once in ((1, 1), (3, 2), (70, 1)):
        steps = make_steps(space, batch, 4)
        expected = model(steps).policy
        actual = decode(model, steps, at_once=at_once)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
        alone = [decode(model, steps, at_once=at_once, rows=[n]) for n in range(min(batch, 3))]
        assert torch.equal(torch.cat(alone), actual[:3])


@pytest.mark.parametrize("changes", [{"norm": "post"}, {"episode_step": False}], ids=str)
@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@torch.no_grad()
def test_models_without_a_final_norm_or_episode_steps_have_none(layout, changes):
    model = make_model(layout, **changes)
    steps = make_steps("coordinates", 3, 4)
    torch.testing.assert_close(decode(model, steps), model(steps).policy, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_first_reward_counts_as_none_whatever_it_is():
    model, steps = make_model(), make_steps("coordinates", 1, 1)
    expected = decode(model, steps)
    steps.previous_reward[0, 0] = torch.nan
    assert torch.equal(decode(model, steps), expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_action", NUM_ACTIONS + 1), ("previous_action", -1), ("observation", 2),
        ("observation", 10), ("episode_step", -1),
    ],
)  # fmt: skip
@torch.no_grad()
def test_numbers_without_a_row_are_refused_and_change_nothing(field, value):
    model, steps = make_model(space="discrete"), make_steps("discrete", 3, 1)  # 3 to 9
    memory = model.make_memory(3)
    getattr(steps, field)[1, 0] = value
    with pytest.raises(IndexError, match="1 of 3 steps"):
        model(steps, memory)
    assert all(ring.lengths.eq(0).all() and ring.lockstep == 0 for ring in memory.rings)


@torch.no_grad()
def test_steps_shown_in_other_memory_are_read_there():
    """An agent shows the same memory at every step, which the kernels then need not look at."""
    model, steps = make_model(), make_steps("coordinates", 3, 6)
    memory = model.make_memory(3)
    same = steps.part(0, 1).map(torch.clone)
    actual = []
    for t in range(6):
        now = steps.part(t, t + 1)
        if t in (1, 2):  # the same memory, with other numbers
            for field, new in zip(same[:5], now[:5], strict=True):
                field.copy_(new)
            now = same
        elif t == 3:  # with gaps
            now = now.map(lambda field: field.repeat_interleave(2, dim=0)[::2])
        elif t == 4:
            now = now.map(torch.clone)
        actual.append(model(now, memory).policy)
    torch.testing.assert_close(torch.cat(actual, dim=1), model(steps).policy, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_beyond_the_learned_ones_are_refused():
    model = make_model("interleaved", "learned")
    frozen = model.freeze().kernel
    steps, rings = make_steps("coordinates", 2, 1), frozen.make_rings(2, CONTEXT + 2)
    positions = torch.tensor([[0, 1, 2], [0, 1, CONTEXT]])
    with pytest.raises(IndexError, match="1 of 2 steps"):
        frozen.decode(*steps[:5], rings, positions=positions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"previous_action": torch.zeros(3, 1)}, "dtype|float32"),
        ({"previous_reward": torch.zeros(3, 1, dtype=torch.float64)}, "float64"),
        ({"observation": torch.zeros(3, 1, 3)}, "float32"),
        ({"observation": torch.zeros(3, 1, 2, dtype=torch.int64)}, "do not fit together"),
        ({"episode_step": torch.zeros(2, 1, dtype=torch.int64)}, "do not fit together"),
        ("1-D", "must be \\(B, T\\), not empty"),
        ("empty", "must be \\(B, T\\), not empty"),
    ],
)  # fmt: skip
@torch.no_grad()
def test_steps_that_the_kernels_cannot_read_are_refused(change, message):
    frozen = make_model().freeze().kernel
    good, rings = make_steps("coordinates", 3, 1), frozen.make_rings(3, CONTEXT)
    if change == "1-D":
        steps = Steps(good.observation, *(x.flatten() for x in good[1:5]))
    elif change == "empty":
        steps = good.part(1, 1)
    else:
        steps = good._replace(**change)
    frozen.decode(*good[:5], rings)
    for decode in (frozen.decode, partial(frozen.sample, torch.zeros(3, 1))):
        for _ in range(2):  # what was refused once is not let pass as seen before
            with pytest.raises(ValueError, match=message):
                decode(*steps[:5], rings)
    assert rings[0].lockstep == 1


@torch.no_grad()
def test_memory_that_was_given_another_size_is_looked_at_again():
    model, steps = make_model(), make_steps("coordinates", 3, 1)
    frozen = model.freeze().kernel
    told = [x.clone() for x in steps[1:5]]
    frozen.decode(steps.observation, *told, frozen.make_rings(3, CONTEXT))
    for x in told:
        x.resize_(2, 1)
    rings = frozen.make_rings(2, CONTEXT)
    with pytest.raises(ValueError, match="do not fit together"):
        frozen.sample(torch.zeros(2, 1), steps.observation, *told, rings)
    sampled = frozen.sample(torch.zeros(2, 1), steps.observation[:2], *told, rings)
    expected = model(steps).policy[:2, -1]
    torch.testing.assert_close(sampled.logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 300])
@pytest.mark.parametrize(("layout", "at_once"), [("fused", 1), ("fused", 3), ("interleaved", 2)])
@torch.no_grad()
def test_what_is_sampled_is_drawn_from_the_last_logits(layout, at_once, size, threads):
    """The distributions are as exact as PyTorch's, and what is drawn is what it draws."""
    model = make_model(layout, actions=size)
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3, 70):
        steps = make_steps("coordinates", batch, 2 * at_once, actions=size)
        uniform = torch.rand((batch, 2), generator=generator)[:, :1]
        memory, other = (model.make_memory(batch, prompt_steps=at_once) for _ in range(2))
        for first in (0, at_once):
            piece = steps.part(first, first + at_once)
            logits = model(piece, other).policy
            drawn, probs, last = memory.sample(piece, uniform)
            assert torch.equal(last, logits[:, -1])
            assert torch.equal(drawn, draw(probs, uniform))
            assert torch.equal(probs, memory.softmax(last))
        assert_as_exact_as_plain(probs, [last.softmax(-1)], last.double().softmax(-1))
        # An environment's sample depends on nobody beside it.
        alone = model.make_memory(1, prompt_steps=at_once)
        for first in (0, at_once):
            one = alone.sample(steps.part(first, first + at_once, slice(1)), uniform[:1])
        assert all(
            torch.equal(*pair) for pair in zip(one, (drawn[:1], probs[:1], last[:1]), strict=True)
        )
    # Nothing is drawn where nobody asks: the memory of the last sample is somebody else's now.
    before = drawn.clone(), probs.clone()
    model(steps.part(0, at_once), memory)
    assert torch.equal(drawn, before[0])
    assert torch.equal(probs, before[1])


@pytest.mark.parametrize(
    "uniform", [torch.zeros(3), torch.zeros(2, 1), torch.zeros(3, 1).double()], ids=str
)
@torch.no_grad()
def test_numbers_that_nothing_can_be_drawn_by_are_refused(uniform):
    model = make_model()
    memory = model.make_memory(3)
    with pytest.raises(ValueError, match=r"uniform is .*it must be float32 of shape \(3, 1\)"):
        memory.sample(make_steps("coordinates", 3, 1), uniform)
    assert memory.rings[0].lockstep == 0
