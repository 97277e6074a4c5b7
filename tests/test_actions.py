import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import (
    Independent,
    Normal,
    TransformedDistribution,
    kl_divergence,
    transforms,
)

from fastad.actions import Categorical, DiagonalGaussian, MultiCategorical, distribution_over
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
    assert distribution_over(spaces.MultiDiscrete([5, 2])).num_params == 7
    assert distribution_over(spaces.Box(LOW, HIGH)).num_params == 6
    assert distribution_over(spaces.Box(LOW, HIGH), squash=True).squash
    for space in (
        spaces.Discrete(3, start=1),
        spaces.Box(0, 1, (2, 2)),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.MultiDiscrete([[2, 2]]),
    ):
        with pytest.raises(UserError, match=r"action_space=.* is not supported; use a Discrete"):
            distribution_over(space)


def test_only_boxes_with_bounds_can_be_squashed_to():
    with pytest.raises(UserError, match="has no bounds"):
        distribution_over(spaces.Box(-np.inf, 1.0, (2,)), squash=True)
    with pytest.raises(UserError, match="is no box"):
        distribution_over(spaces.Discrete(2), squash=True)


def test_categorical_is_as_pytorchs(generator):
    ours, logits = Categorical(5), torch.randn(7, 5, generator=generator)
    theirs = torch.distributions.Categorical(logits=logits)
    action = torch.randint(5, (7,), generator=generator)
    torch.testing.assert_close(ours.log_prob(logits, action), theirs.log_prob(action))
    torch.testing.assert_close(ours.policy(logits), theirs.probs)
    torch.testing.assert_close(ours.entropy(logits), theirs.entropy())
    other = torch.randn(7, 5, generator=generator)
    expected = kl_divergence(torch.distributions.Categorical(logits=other), theirs)
    torch.testing.assert_close(ours.divergence(ours.policy(other), logits), expected)
    action, sure = ours.likeliest(logits)
    assert torch.equal(action, logits.argmax(-1))
    assert torch.equal(sure, torch.nn.functional.one_hot(action, 5).float())


def test_categorical_is_drawn_as_often_as_it_says(generator):
    ours, logits = Categorical(4), torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    drawn = ours.draw(ours.policy(logits).expand(100_000, 4), generator)
    share = torch.bincount(drawn, minlength=4) / 100_000
    # Five standard deviations of a share.
    assert (share - logits.softmax(0)).abs().max() < 5 * 0.5 / 100_000**0.5
    assert share[3] == 0


def test_choices_are_as_two_of_pytorchs(generator):
    ours, logits = MultiCategorical(np.array([3, 2])), torch.randn(7, 5, generator=generator)
    other = torch.randn(7, 5, generator=generator)
    first, second = (torch.distributions.Categorical(logits=x) for x in logits.split([3, 2], -1))
    action = torch.stack([first.sample(), second.sample()], dim=-1)
    expected = first.log_prob(action[:, 0]) + second.log_prob(action[:, 1])
    torch.testing.assert_close(ours.log_prob(logits, action), expected)
    torch.testing.assert_close(ours.policy(logits), torch.cat((first.probs, second.probs), -1))
    torch.testing.assert_close(ours.entropy(logits), first.entropy() + second.entropy())
    others = (torch.distributions.Categorical(logits=x) for x in other.split([3, 2], -1))
    expected = sum(kl_divergence(*pair) for pair in zip(others, (first, second), strict=True))
    torch.testing.assert_close(ours.divergence(ours.policy(other), logits), expected)


def test_choices_are_drawn_each_as_often_as_it_says(generator):
    ours = MultiCategorical(np.array([2, 3]))
    policy = torch.tensor([0.25, 0.75, 0.5, 0.0, 0.5]).expand(100_000, 5)
    first, second = ours.draw(policy, generator).unbind(-1)
    allowed = 5 * 0.5 / 100_000**0.5
    assert abs((first == 1).float().mean() - 0.75) < allowed
    assert abs((second == 2).float().mean() - 0.5) < allowed
    assert not (second == 1).any()
    # Independent of each other.
    assert abs(((first == 1) & (second == 2)).float().mean() - 0.375) < allowed


def test_what_stands_for_no_action_is_no_action(generator):
    for space in (spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.Box(LOW, HIGH)):
        actions = distribution_over(space)
        assert actions.is_none(actions.none)
        drawn = actions.random(1000, generator)
        assert not actions.is_none(drawn).any()
        assert all(space.contains(action.numpy().astype(space.dtype)) for action in drawn)
        assert actions.none.shape == actions.shape


def test_chance_is_a_policy_that_prefers_nothing():
    device = torch.device("cpu")
    assert Categorical(4).chance(1, device).tolist() == [[0.25] * 4]
    chance = MultiCategorical(np.array([2, 4])).chance(1, device)
    assert chance.tolist() == [[0.5, 0.5, 0.25, 0.25, 0.25, 0.25]]
    # Centres of [-1, 1], [-2, 2] and [0, 9], and half widths 1, 2 and 4.5.
    expected = [0.0, 0.0, 4.5, 0.0, math.log(2), math.log(4.5)]
    assert DiagonalGaussian(LOW, HIGH).chance(1, device)[0].tolist() == pytest.approx(expected)


def test_chance_mixes_with_probabilities_and_with_nothing_else():
    mixed = Categorical(2).mix(torch.tensor([1.0, 0.0]), 0.5)
    assert mixed.tolist() == [0.75, 0.25]
    for actions in (MultiCategorical(np.array([2, 2])), DiagonalGaussian(LOW, HIGH)):
        with pytest.raises(UserError, match="noise_labels=executed is not possible"):
            actions.mix(torch.zeros(1, actions.num_params), 0.5)


def test_gaussian_is_as_pytorchs_in_the_units_of_the_box(generator):
    ours = DiagonalGaussian(LOW, HIGH)
    other, params = torch.randn(2, 7, 6, generator=generator).clamp(-2, 2)
    # Half widths 1, 2 and 4.5 around 0, 0 and 4.5.
    half, centre = torch.tensor([1.0, 2.0, 4.5]), torch.tensor([0.0, 0.0, 4.5])
    mean, log_std = params.chunk(2, dim=-1)
    policy = ours.policy(params)
    torch.testing.assert_close(policy, torch.cat((centre + half * mean, log_std + half.log()), -1))
    action = torch.randn(7, 3, generator=generator)
    torch.testing.assert_close(ours.log_prob(params, action), gaussian(policy).log_prob(action))
    torch.testing.assert_close(ours.entropy(params), gaussian(policy).entropy())
    expected = kl_divergence(gaussian(ours.policy(other)), gaussian(policy))
    torch.testing.assert_close(ours.divergence(ours.policy(other), params), expected)
    assert torch.equal(ours.divergence(policy, params), torch.zeros(7))


def test_squashed_gaussian_is_as_pytorchs_transformed(generator):
    ours, params = DiagonalGaussian(LOW, HIGH, squash=True), torch.randn(7, 6, generator=generator)
    half, centre = torch.tensor([1.0, 2.0, 4.5]), torch.tensor([0.0, 0.0, 4.5])
    steps = [transforms.TanhTransform(), transforms.AffineTransform(centre, half)]
    theirs = TransformedDistribution(
        gaussian(params), [transforms.IndependentTransform(step, 1) for step in steps]
    )
    action = theirs.sample().clamp(centre - 0.999 * half, centre + 0.999 * half)
    torch.testing.assert_close(
        ours.log_prob(params, action), theirs.log_prob(action), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(ours.policy(params), params)
    drawn = ours.draw(params[:1].expand(100_000, 6), generator)
    assert (drawn >= torch.from_numpy(LOW)).all()
    assert (drawn <= torch.from_numpy(HIGH)).all()
    # The median of what is squashed is the mean, squashed.
    expected = centre + half * params[0, :3].tanh()
    torch.testing.assert_close(drawn.median(dim=0).values, expected, rtol=0, atol=0.1)
    # At the very edge of the box the density is finite.
    assert ours.log_prob(params[0], torch.from_numpy(HIGH)).isfinite()


def test_gaussians_that_are_nearly_alike_have_a_positive_divergence(generator):
    ours = DiagonalGaussian(-np.ones(3), np.ones(3))
    params = torch.randn(1000, 6, generator=generator).clamp(-1.9, 1.9)
    near = params + 1e-4 * torch.randn(1000, 6, generator=generator)
    exact = kl_divergence(gaussian(near.double()), gaussian(params.double())).float()
    torch.testing.assert_close(ours.divergence(near, params), exact, rtol=0.01, atol=0.0)


def test_policies_that_are_all_but_certain_count_for_no_more_than_at_the_limit():
    ours, params = DiagonalGaussian(-np.ones(1), np.ones(1)), torch.tensor([0.5, -30.0])
    at_limit = torch.tensor([0.2, -4.0])
    sure = torch.tensor([0.2, -30.0])
    assert torch.equal(ours.divergence(sure, params), ours.divergence(at_limit, params))
    # Means 0.3 apart, both with a deviation of e^-4: 0.3^2 e^8 / 2.
    assert ours.divergence(sure, params).item() == pytest.approx(0.045 * math.exp(8), rel=1e-5)


def test_gaussian_draws_are_clipped_to_the_box(generator):
    ours = DiagonalGaussian(LOW, HIGH)
    policy = torch.tensor([0.5, -5.0, 4.0, 0.1, 0.2, -0.5]).expand(100_000, 6)
    drawn = ours.draw(policy, generator)
    assert drawn.dtype == torch.float32
    assert drawn.amin(0).tolist() == [-1.0, -2.0, pytest.approx(drawn[:, 2].min().item())]
    assert (drawn <= torch.from_numpy(HIGH)).all()
    # The third lies inside the box: five standard deviations of mean and deviation.
    third, std = drawn[:, 2], np.exp(-0.5)
    assert abs(third.mean() - 4.0) < 5 * std / 100_000**0.5
    assert abs(third.std() - std) < 5 * std / 200_000**0.5


def test_the_likeliest_vector_is_the_mean_within_the_box():
    ours = DiagonalGaussian(LOW, HIGH)
    action, sure = ours.likeliest(torch.tensor([[0.5, -5.0, 0.0, 0.1, 0.2, -0.5]]))
    assert action.tolist() == [[0.5, -2.0, 4.5]]
    expected = [0.5, -10.0, 4.5, -4.0, -4 + math.log(2), -4 + math.log(4.5)]
    assert sure[0].tolist() == pytest.approx(expected)


def test_the_defect_of_a_policy_is_that_of_its_sum():
    rows = np.array([[0.5, 0.5], [0.5, 0.25], [np.nan, 1.0]], np.float16)
    defect = Categorical(2).defect(rows)
    assert defect[:2].tolist() == [0.0, 0.25]
    assert np.isnan(defect[2])
    assert DiagonalGaussian(LOW, HIGH).defect(np.ones((2, 6))).tolist() == [0.0, 0.0]
    choices = MultiCategorical(np.array([2, 1]))
    assert choices.defect(np.array([[0.5, 0.5, 0.75]])).tolist() == [0.25]


def test_bounds_of_the_size_of_a_float_are_none(generator):
    """As some environments write that there are none."""
    most = np.finfo(np.float32).max
    ours = DiagonalGaussian(np.full(2, -most), np.full(2, most))
    assert not ours.is_bounded
    assert ours.chance(1, torch.device("cpu")).tolist() == [[0.0, 0.0, 0.0, 0.0]]
    assert ours.random(1000, generator).abs().max() < 10


def test_what_a_rollout_asked_for_first_can_be_learned_with():
    ours = DiagonalGaussian(LOW, HIGH)
    with torch.inference_mode():
        ours.policy(torch.zeros(1, 6, device="meta"))
    params = torch.zeros(1, 6, requires_grad=True, device="meta")
    ours.divergence(torch.zeros(1, 6, device="meta"), params).sum().backward()
    assert params.grad.shape == (1, 6)
