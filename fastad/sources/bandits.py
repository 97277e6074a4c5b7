"""Rules for multi-armed bandits: UCB1, epsilon-greedy and Thompson sampling."""

from abc import abstractmethod

import torch
from fastad_kernels import soft_exp
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.bandits import BanditFamily, GaussianBandit
from fastad.envs.base import BatchedEnv, uniform_over
from fastad.sources.base import Source, number, whole_number
from fastad.sources.visited import Visited

PART = 64  # learners whose posteriors are compared at once


class BanditRule(Source):
    """Counts pulls and sums rewards per arm; subclasses turn these into a policy."""

    def __init__(self, env: BatchedEnv, *, num_episodes: int, generator: torch.Generator) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        shape = (self.num_learners, self.num_actions)
        self.pulls = torch.zeros(shape, device=self.device)  # (N, A)
        self.sums = torch.zeros(shape, device=self.device)  # (N, A)
        self._first_arm = torch.arange(self.num_learners, device=self.device) * self.num_actions

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Bandits."""
        return isinstance(env.family, BanditFamily)

    @abstractmethod
    def policy(self) -> Tensor:
        """Action distributions, (N, A)."""

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw arms from the rule's distribution."""
        probs = self.policy()
        return self.draw(probs), probs

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Count the pull and its reward."""
        pulled = self._first_arm + transition.action
        self.pulls.view(-1).index_add_(0, pulled, torch.ones_like(transition.reward))
        self.sums.view(-1).index_add_(0, pulled, transition.reward)

    def would_act(self, visited: Visited) -> Tensor:
        """There is but one state; see `Source.would_act`."""
        return self.policy()[:, None].expand(*visited.phase.shape, -1)

    def means(self) -> Tensor:
        """Mean reward of each arm so far, (N, A); 0 for an arm never pulled."""
        return self.sums / self.pulls.clamp(min=1)


class UCB1(BanditRule):
    """UCB1 (Auer, Cesa-Bianchi and Fischer 2002): the arm of the highest upper bound.

    The bound is mean + exploration * scale * sqrt(2 ln(t) / pulls) after t pulls in all. `scale`
    adapts the rule, stated for rewards in [0, 1], to what rewards really vary by: the standard
    deviation of a Gaussian bandit's rewards, and 0.5, the largest that rewards in [0, 1] can
    have, for the others. Arms never pulled come first; ties are broken uniformly.

    Args:
        env: A bandit, which tells the scale of its rewards.
        num_episodes: Length of the histories, in pulls.
        generator: Breaks the ties.
        exploration: Factor of the bound's width.
    """

    name = "ucb1"

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        exploration: float = 1.0,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self.exploration = number("exploration", exploration, low=0.0)
        if isinstance(env.family, GaussianBandit):
            self.scale = env.family.reward_std
            self.is_told("the standard deviation of the rewards")
        else:
            self.scale = 0.5
            self.is_told("that rewards lie in [0, 1]")

    def policy(self) -> Tensor:
        """Uniform over the arms of the highest bound."""
        total = self.pulls.sum(dim=1, keepdim=True).clamp_(min=1)
        width = (2 * total.log() / self.pulls).sqrt_()
        bound = self.means().add_(width, alpha=self.exploration * self.scale)
        bound.masked_fill_(self.pulls == 0, float("inf"))
        return uniform_over(bound == bound.amax(dim=1, keepdim=True))


class EpsilonGreedy(BanditRule):
    """The arm of the highest running mean, or any arm with probability epsilon.

    Epsilon falls linearly: max(final_epsilon, 1 - episode / (decay_fraction * num_episodes)),
    episodes counted from 0. Arms never pulled have the mean 0; ties are broken uniformly.

    Args:
        env: A bandit.
        num_episodes: Length of the histories, in pulls.
        generator: Draws the arms.
        final_epsilon: Where epsilon ends.
        decay_fraction: The part of the history after which epsilon would reach 0.
    """

    name = "epsilon-greedy"

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        final_epsilon: float = 0.05,
        decay_fraction: float = 0.6,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self.is_told("how many pulls there will be")
        self.final_epsilon = number("final_epsilon", final_epsilon, low=0.0, high=1.0)
        self.decay_fraction = number("decay_fraction", decay_fraction, low=1e-6)

    def epsilon(self) -> Tensor:
        """Probability of a uniformly random arm at the next pull, (N, 1)."""
        episode = self.pulls.sum(dim=1, keepdim=True)
        decay = episode / (self.decay_fraction * self.num_episodes)
        return (1 - decay).clamp_(min=self.final_epsilon)

    def policy(self) -> Tensor:
        """Uniform over the best arms, mixed with epsilon uniform over all."""
        means = self.means()
        greedy = uniform_over(means == means.amax(dim=1, keepdim=True))
        return greedy.lerp_(torch.full_like(greedy, 1 / self.num_actions), self.epsilon())


class Thompson(BanditRule):
    """Thompson sampling (1933): each arm with the posterior probability that it is the best.

    That probability is computed on a grid of means instead of being sampled, so that
    `policy` is free of Monte-Carlo noise; the arm is drawn from it. Rewards of 0 and 1
    have the prior Beta(1, 1). Gaussian rewards, whose standard deviation the rule is told, have
    the prior N(1/2, 1/12), the moments of U(0, 1).

    Args:
        env: A bandit, which tells the kind of its rewards.
        num_episodes: Length of the histories, in pulls.
        generator: Draws the arms.
        grid_points: Resolution, in points over the means that the prior allows: (0, 1), or four
            standard deviations to either side of a Gaussian prior's mean.
    """

    name = "thompson"
    prior_mean = 0.5
    prior_variance = 1 / 12

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        grid_points: int = 100,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        grid_points = whole_number("grid_points", grid_points, low=10)
        middles = (torch.arange(grid_points, device=self.device) + 0.5) / grid_points  # of (0, 1)
        self.reward_variance = 0.0  # 0 for rewards of 0 and 1
        # The log-posterior on the grid is statistics (N, A, 2) @ these (2, grid_points).
        if isinstance(env.family, GaussianBandit):
            # The floor keeps rewards without noise, known after one pull, from dividing by 0.
            self.reward_variance = max(env.family.reward_std**2, 1e-6)
            self.is_told("the standard deviation of the rewards")
            self.is_told("the mean and variance, 1/2 and 1/12, of the arms' means")
            # Measured from the prior mean, so that the squares stay small.
            offset = (2 * middles - 1) * 4 * self.prior_variance**0.5
            self._features = torch.stack((offset, -0.5 * offset**2))
        else:
            self._features = torch.stack((middles.log(), (1 - middles).log()))
            self.is_told("that rewards are 0 or 1")
            self.is_told("the prior Beta(1, 1) of the arms' means")

    def policy(self) -> Tensor:
        """Probability of each arm to be the best, given the rewards so far."""
        if self.reward_variance > 0:
            weighted = (self.sums - self.prior_mean * self.pulls) / self.reward_variance
            precision = 1 / self.prior_variance + self.pulls / self.reward_variance
            statistics = torch.stack((weighted, precision), dim=2)
        else:
            statistics = torch.stack((self.sums, self.pulls - self.sums), dim=2)
        # In parts that fit a CPU core's cache.
        return torch.cat([self._best_arm_probs(part) for part in statistics.split(PART)])

    def _best_arm_probs(self, statistics: Tensor) -> Tensor:
        log_posterior = statistics @ self._features  # (n, A, grid_points)
        mass = soft_exp(log_posterior.sub_(log_posterior.amax(dim=2, keepdim=True)))
        return best_arm_probs(mass.div_(mass.sum(dim=2, keepdim=True)))


def best_arm_probs(mass: Tensor) -> Tensor:
    """Probability that each arm's mean is the largest.

    Two arms in one cell of the grid are taken to be equally likely the larger.

    Args:
        mass: (N, A, G) each arm's posterior over a grid of G means, ascending; sums to 1.

    Returns:
        (N, A), rows sum to 1.
    """
    below = (mass.cumsum(dim=2) - 0.5 * mass).clamp_(min=1e-30).log_()  # (N, A, G)
    others = soft_exp(below.sum(dim=1, keepdim=True) - below)  # all the other arms are below
    probs = others.mul_(mass).sum(dim=2)
    return probs.div_(probs.sum(dim=1, keepdim=True))
