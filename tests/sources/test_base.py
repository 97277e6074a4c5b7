import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom
from fastad.sources.base import number, whole_number
from fastad.sources.frontier import Frontier


def frontier(num_learners: int = 1) -> Frontier:
    generator = torch.Generator().manual_seed(0)
    env = DarkRoom().make(torch.zeros(num_learners, 2, dtype=torch.int64), generator)
    return Frontier(env, num_episodes=1, generator=generator)


def test_actions_are_drawn_with_the_given_probabilities() -> None:
    probs = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4])
    actions = frontier().draw(probs.expand(100_000, 5))
    frequency = torch.bincount(actions, minlength=5) / 100_000
    # Five standard deviations of a frequency: 5 * sqrt(p (1 - p) / n) <= 0.008.
    torch.testing.assert_close(frequency, probs, atol=0.008, rtol=0)


@pytest.mark.parametrize("only", range(5))
def test_actions_of_probability_zero_are_never_drawn(only: int) -> None:
    probs = torch.zeros(200_000, 5)
    probs[:, only] = 0.3  # not normalised: rounding must not lead past the last action either
    assert (frontier().draw(probs) == only).all()


@pytest.mark.parametrize("value", [-0.1, 1.1, "fast", True, None, float("nan")])
def test_numbers_out_of_range_and_other_values_are_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"gamma=.* must be a number between 0 and 1"):
        number("gamma", value, low=0.0, high=1.0)


@pytest.mark.parametrize("value", [-1, 1.5, "two", True])
def test_whole_numbers_are_whole(value: object) -> None:
    with pytest.raises(UserError, match=r"sweeps=.* must be a whole number, at least 0"):
        whole_number("sweeps", value, low=0)


def test_zero_episodes_are_refused() -> None:
    generator = torch.Generator()
    env = DarkRoom().make(torch.zeros(1, 2, dtype=torch.int64), generator)
    with pytest.raises(UserError, match="num_episodes=0"):
        Frontier(env, num_episodes=0, generator=generator)
