from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.bandits import BernoulliBandit, GaussianBandit
from fastad.sources.bandits import UCB1, EpsilonGreedy, Thompson, best_arm_probs

ARMS = {"num_arms": 5}


def regret(learn: Callable[..., Any], source: str, env: str = "gaussian-bandit") -> Tensor:
    """Mean cumulative regret over 1,000 five-armed bandits and 200 pulls, (200,)."""
    tasks = torch.rand(1000, 5, generator=torch.Generator().manual_seed(0))
    run = learn(env, source, tasks=tasks, env_kwargs=ARMS, num_episodes=200)
    gap = tasks.amax(dim=1, keepdim=True) - tasks.gather(1, run.history.action)
    return gap.cumsum(dim=1).mean(dim=0)


def pull(rule: Any, arm: int, reward: float) -> None:
    yes = torch.tensor([True])
    step = Transition(
        torch.zeros(1), torch.tensor([arm]), torch.tensor([reward]), yes, ~yes, torch.zeros(1, 3)
    )
    rule.observe(step, torch.zeros(1))


def gaussian(rule: type, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    env = GaussianBandit(num_arms=3).make(torch.zeros(1, 3), generator)
    return rule(env, num_episodes=100, generator=generator, **options)


# A learning rule's mean regret over 1,000 bandits has a standard error below 0.2; random pulls
# regret 200 * (5 / 6 - 1 / 2) = 66.7.
@pytest.mark.parametrize(("source", "expected"), [("ucb1", 8.2), ("thompson", 7.2)])
def test_regret_on_gaussian_arms_is_as_in_the_experiments(
    learn: Callable[..., Any], source: str, expected: float
) -> None:
    assert abs(regret(learn, source)[-1].item() - expected) < 0.8


@pytest.mark.parametrize("source", ["ucb1", "thompson"])
@pytest.mark.parametrize("env", ["gaussian-bandit", "bernoulli-bandit"])
def test_regret_grows_ever_more_slowly(learn: Callable[..., Any], source: str, env: str) -> None:
    total = regret(learn, source, env)
    quarters = total[49::50].diff(prepend=torch.zeros(1))
    assert (quarters.diff() < 0).all()
    assert quarters[-1] < quarters[0] / 2


def test_ucb1_pulls_every_arm_first_and_then_the_highest_bound() -> None:
    rule = gaussian(UCB1)
    for arm, reward in ((0, 0.5), (1, 0.9), (2, 0.1)):
        expected = torch.tensor([[float(a >= arm) / (3 - arm) for a in range(3)]])
        torch.testing.assert_close(rule.policy(), expected)
        pull(rule, arm, reward)
    # Equal widths: the highest mean has the highest bound.
    torch.testing.assert_close(rule.policy(), torch.tensor([[0.0, 1.0, 0.0]]))
    for _ in range(40):
        pull(rule, 1, 0.9)
    # t = 43: 0.3 sqrt(2 ln 43 / 41) = .13 on .9, but 0.3 sqrt(2 ln 43) = .82 on .5 and .1.
    torch.testing.assert_close(rule.policy(), torch.tensor([[1.0, 0.0, 0.0]]))


def test_ucb1_breaks_ties_uniformly() -> None:
    rule = gaussian(UCB1)
    for arm, reward in ((0, 0.5), (1, 0.5), (2, 0.1)):
        pull(rule, arm, reward)
    torch.testing.assert_close(rule.policy(), torch.tensor([[0.5, 0.5, 0.0]]))


def test_epsilon_falls_linearly_to_its_floor() -> None:
    rule = gaussian(EpsilonGreedy)  # 100 episodes: reaches 0 at 60, but stops at 0.05
    expected = {0: 1.0, 15: 0.75, 30: 0.5, 57: 0.05, 60: 0.05, 99: 0.05}
    for episode in range(100):
        if episode in expected:
            assert rule.epsilon().item() == pytest.approx(expected[episode], abs=1e-6)
        pull(rule, 1, 1.0)


def test_epsilon_greedy_mixes_the_best_arm_with_all_arms() -> None:
    rule = gaussian(EpsilonGreedy)
    for _ in range(30):
        pull(rule, 1, 1.0)
    torch.testing.assert_close(rule.policy(), torch.tensor([[1 / 6, 2 / 3, 1 / 6]]))


def test_thompson_knows_who_is_better_by_the_closed_form_of_two_beta_arms() -> None:
    generator = torch.Generator().manual_seed(0)
    env = BernoulliBandit(num_arms=2).make(torch.zeros(1, 2), generator)
    rule = Thompson(env, num_episodes=1, generator=generator)
    torch.testing.assert_close(rule.policy(), torch.tensor([[0.5, 0.5]]))
    pull(rule, 0, 1.0)
    # P(Beta(2, 1) > U) = E[x] = 2/3.
    torch.testing.assert_close(rule.policy(), torch.tensor([[2 / 3, 1 / 3]]), atol=1e-3, rtol=0)
    pull(rule, 1, 0.0)
    # P(Beta(2, 1) > Beta(1, 2)) = integral of 2x (1 - (1 - x)^2) = 5/6.
    torch.testing.assert_close(rule.policy(), torch.tensor([[5 / 6, 1 / 6]]), atol=1e-3, rtol=0)


def test_thompson_knows_who_is_better_by_the_closed_form_of_two_normal_arms() -> None:
    generator = torch.Generator().manual_seed(0)
    env = GaussianBandit(num_arms=2).make(torch.zeros(1, 2), generator)
    rule = Thompson(env, num_episodes=1, generator=generator)
    for arm, reward in ((0, 0.9), (0, 0.7), (1, 0.2)):
        pull(rule, arm, reward)
    # Posteriors of prior N(.5, 1/12) and noise .09: precision 12 + n / .09,
    # mean (6 + sum / .09) / precision.
    first, second = 12 + 2 / 0.09, 12 + 1 / 0.09
    gap = (6 + 1.6 / 0.09) / first - (6 + 0.2 / 0.09) / second
    spread = (1 / first + 1 / second) ** 0.5
    better = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(gap / spread)).item()
    expected = torch.tensor([[better, 1 - better]])
    torch.testing.assert_close(rule.policy(), expected, atol=2e-3, rtol=0)


def test_best_arm_probabilities_survive_posteriors_far_apart() -> None:
    mass = torch.zeros(1, 3, 100)
    mass[0, 0, 99] = mass[0, 1, 0] = mass[0, 2, 50] = 1.0
    torch.testing.assert_close(best_arm_probs(mass), torch.tensor([[1.0, 0.0, 0.0]]))
    mass[0, 2] = mass[0, 0]
    torch.testing.assert_close(best_arm_probs(mass), torch.tensor([[0.5, 0.0, 0.5]]))


def test_rewards_without_noise_are_possible(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[0.2, 0.8, 0.4, 0.1, 0.3]])
    for source in ("ucb1", "thompson"):
        run = learn(
            "gaussian-bandit", source, tasks=tasks, env_kwargs={**ARMS, "reward_std": 0.0},
            num_episodes=30,
        )  # fmt: skip
        assert (run.history.action[0, -5:] == 1).all()
