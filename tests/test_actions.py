import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Independent, Normal, kl_divergence

from fastad.actions import Categorical, DiagonalGaussian, distribution_over
from fastad.base.errors import UserError

LOW, HIGH = np.array([-1.0, -2.0, 0.0], np.float32), np.array([1.0, 2.0, 9.0], np.float32)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def gaussian(params):
    """PyTorch's own."""
    mean, log_std = params.chunk(2, dim=-1)
    return Independent(Normal(mean, log_std.exp()), 1)


def test_each_space_has_its_distribution():
    assert distribution_over(spaces.Discrete(5)).num_params == 5
    assert distribution_over(spaces.Box(LOW, HIGH)).num_params == 6
    for space in (
        spaces.Discrete(3, start=1),
        spaces.Box(0, 1, (2, 2)),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.MultiDiscrete([2, 2]),
    ):
        with pytest.raises(UserError, match=r"action_space=.* is not supported; use a Discrete"):
            distribution_over(space)


def test_categorical_is_as_pytorchs(generator):
    ours, logits = Categorical(5), torch.randn(7, 5, generator=generator)
    theirs = torch.distributions.Categorical(logits=logits)
    action = torch.randint(5, (7,), generator=generator)
    torch.testing.assert_close(ours.log_prob(logits, action), theirs.log_prob(action))
    torch.testing.assert_close(ours.policy(logits), theirs.probs)
    other = torch.randn(7, 5, generator=generator)
    expected = kl_divergence(torch.distributions.Categorical(logits=other), theirs)
    torch.testing.assert_close(ours.divergence(ours.policy(other), logits), expected)
    assert torch.equal(ours.draw(logits, generator, greedy=True), logits.argmax(-1))


def test_categorical_is_drawn_as_often_as_it_says(generator):
    ours, logits = Categorical(4), torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    drawn = ours.draw(logits.expand(100_000, 4), generator)
    share = torch.bincount(drawn, minlength=4) / 100_000
    # Five standard deviations of a share.
    assert (share - logits.softmax(0)).abs().max() < 5 * 0.5 / 100_000**0.5
    assert share[3] == 0


def test_gaussian_is_as_pytorchs(generator):
    ours = DiagonalGaussian(LOW, HIGH)
    policy, params = torch.randn(2, 7, 6, generator=generator)
    action = torch.randn(7, 3, generator=generator)
    torch.testing.assert_close(ours.log_prob(params, action), gaussian(params).log_prob(action))
    expected = kl_divergence(gaussian(policy), gaussian(params))
    torch.testing.assert_close(ours.divergence(policy, params), expected)
    assert torch.equal(ours.policy(params), params)
    assert torch.equal(ours.divergence(params, params), torch.zeros(7))


def test_gaussians_that_are_nearly_alike_have_a_positive_divergence(generator):
    ours, params = DiagonalGaussian(LOW, HIGH), torch.randn(1000, 6, generator=generator)
    near = params + 1e-4 * torch.randn(1000, 6, generator=generator)
    exact = kl_divergence(gaussian(near.double()), gaussian(params.double())).float()
    torch.testing.assert_close(ours.divergence(near, params), exact, rtol=0.01, atol=0.0)


def test_gaussian_draws_are_clipped_to_the_box(generator):
    ours = DiagonalGaussian(LOW, HIGH)
    params = torch.tensor([0.5, -5.0, 4.0, 0.1, 0.2, -0.5]).expand(100_000, 6)
    drawn = ours.draw(params, generator)
    assert drawn.dtype == torch.float32
    assert drawn.amin(0).tolist() == [-1.0, -2.0, pytest.approx(drawn[:, 2].min().item())]
    assert (drawn <= torch.from_numpy(HIGH)).all()
    # The third lies inside the box: five standard deviations of mean and deviation.
    third, std = drawn[:, 2], np.exp(-0.5)
    assert abs(third.mean() - 4.0) < 5 * std / 100_000**0.5
    assert abs(third.std() - std) < 5 * std / 200_000**0.5
    assert ours.draw(params[:1], generator, greedy=True).tolist() == [[0.5, -2.0, 4.0]]


def test_the_defect_of_a_policy_is_that_of_its_sum():
    rows = np.array([[0.5, 0.5], [0.5, 0.25], [np.nan, 1.0]], np.float16)
    defect = Categorical(2).defect(rows)
    assert defect[:2].tolist() == [0.0, 0.25]
    assert np.isnan(defect[2])
    assert DiagonalGaussian(LOW, HIGH).defect(np.ones((2, 6))).tolist() == [0.0, 0.0]
