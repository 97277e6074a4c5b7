"""Drawing by the C++ kernel: bit for bit what plain PyTorch draws; and what is drawn from."""

import pytest
import torch
from fastad_kernels import LEAST_LOG, draw, native, normalise, softmax
from fastad_kernels.native.draw import draw as native_draw
from fastad_kernels.native.draw import normalise as native_normalise
from fastad_kernels.native.draw import sums_like_pytorch

from tests.kernels.tolerance import assert_as_exact_as_plain

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)

NUM_ROWS = 100_000


def make_rows(num_actions, sharpness=3.0):
    """Distributions, some of them with zeros, and a uniform number for each."""
    generator = torch.Generator().manual_seed(num_actions)
    shape = NUM_ROWS, num_actions
    scores = sharpness * torch.randn(shape, generator=generator)
    hidden = torch.rand(shape, generator=generator) < 0.3
    hidden[:, torch.randint(num_actions, (), generator=generator)] = False
    hidden[NUM_ROWS // 2 :] = False
    probs = scores.masked_fill(hidden, -torch.inf).softmax(dim=1)
    return probs, torch.rand((NUM_ROWS, 1), generator=generator)


@pytest.mark.parametrize("num_actions", [1, 2, 5, 17, 300])
def test_the_kernel_draws_what_pytorch_draws(num_actions):
    probs, uniform = make_rows(num_actions)
    assert torch.equal(native_draw(probs, uniform), draw(probs, uniform))
    # Ties: numbers that fall on the border between two entries, or a rounding step beside it.
    total, borders = probs.cumsum(1)[:, -1:], probs.cumsum(1)[:, num_actions // 2 :][:, :1]
    border = borders / total
    for uniform in (border, *(border.nextafter(torch.tensor(x)) for x in (0.0, 1.0))):
        assert torch.equal(native_draw(probs, uniform), draw(probs, uniform))


@pytest.mark.parametrize("num_rows", [1, NUM_ROWS])
@pytest.mark.parametrize("num_actions", range(1, 8))
def test_the_kernel_normalises_to_what_pytorch_does(num_actions, num_rows):
    if not sums_like_pytorch(num_actions):
        pytest.skip("PyTorch adds such rows up in another order on this processor")
    weights = make_rows(num_actions)[0][:num_rows] * 3.0
    assert torch.equal(native_normalise(weights.clone()), normalise(weights.clone()))
    mixed = normalise(weights.clone(), epsilon=0.3)
    torch.testing.assert_close(mixed, 0.7 * normalise(weights.clone()) + 0.3 / num_actions)
    assert torch.equal(native_normalise(weights.clone(), 0.3), mixed)


@pytest.mark.parametrize("num_actions", [5, 8, 17])
def test_auto_gives_the_bits_of_the_reference(num_actions):
    weights, uniform = make_rows(num_actions)
    # PyTorch's sums depend on how rows lie in memory.
    for rows in (weights * 3.0, (weights * 3.0).t().contiguous().t()):
        probs = normalise(rows.clone())
        assert torch.equal(normalise(rows.clone(), impl="auto"), probs)
        assert torch.equal(draw(probs, uniform, impl="auto"), draw(probs, uniform))


def test_what_has_no_probability_is_never_drawn():
    probs, uniform = make_rows(5)
    for numbers in (uniform, torch.zeros_like(uniform)):
        drawn = native_draw(probs, numbers)
        assert probs.gather(1, drawn[:, None]).gt(0).all()


def test_rows_may_lie_anywhere_in_memory():
    probs, uniform = make_rows(5)
    strided = probs.t().contiguous().t(), uniform.repeat(1, 2)[:, :1]
    assert torch.equal(native_draw(*strided), draw(probs, uniform))


@pytest.mark.parametrize(
    ("probs", "uniform"),
    [
        (torch.ones(3, 5, dtype=torch.float64), torch.ones(3, 1)),
        (torch.ones(3, 5), torch.ones(3, 1, dtype=torch.float64)),
        (torch.ones(3, 5), torch.ones(3)),
        (torch.ones(3, 5), torch.ones(2, 1)),
        (torch.ones(5), torch.ones(5, 1)),
        (torch.ones(3, 5, device="meta"), torch.ones(3, 1)),
    ],
)
def test_what_the_kernel_cannot_read_is_refused(probs, uniform):
    with pytest.raises(ValueError, match=r"float32|must be"):
        native_draw(probs, uniform)


@pytest.mark.parametrize("num_actions", [1, 2, 5, 17])
def test_a_softmax_is_as_exact_as_that_of_plain_pytorch(num_actions):
    generator = torch.Generator().manual_seed(num_actions)
    outputs = 3.0 * torch.randn(64, 7, 3, num_actions + 1, generator=generator)
    scores = outputs[:, 4, :, :num_actions]  # as of networks with a value behind the scores
    ours, plain = softmax(scores, impl="auto"), softmax(scores)
    assert_as_exact_as_plain(ours, [plain], scores.double().softmax(-1))
    assert torch.equal(ours[5:6, 1:2], softmax(scores[5:6, 1:2], impl="auto"))


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_softmax_of_scores_far_apart_has_no_nan_and_no_slow_numbers(impl):
    scores = torch.tensor([[[1e30, 0.0], [-1e30, 0.0], [3.0, -60.0]]])
    probs = softmax(scores, impl=impl)
    least = torch.tensor(LEAST_LOG).exp()
    assert ((probs == 0) | (probs >= least * 0.99)).all()
    wanted = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    torch.testing.assert_close(probs, wanted, atol=1e-20, rtol=0)
