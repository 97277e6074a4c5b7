"""What the actions of Stable-Baselines3's models are drawn from, step by step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

# The standard deviation of atanh(u), u uniform in (-1, 1): of a logistic variable of scale 1/2.
# A Gaussian with it is 0.014 nats from that, the nearest that there is.
SPREAD_OF_UNIFORM = math.pi / math.sqrt(12)


class Policies(ABC):
    """The policies of a model, as histories hold them, see `fastad.actions`.

    Args:
        model: That acts.
    """

    squashes: ClassVar[bool] = False  # see `Source.squashes`

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model: Any = model
        self.net: Any = model.policy

    @abstractmethod
    def acted_by(self) -> Tensor:
        """What the action that the first environment is about to execute was drawn from, (A,)."""

    @abstractmethod
    def at(self, observations: Any) -> Tensor:
        """What the model, as it is now, would draw from where it saw this, (T, A).

        Args:
            observations: Arrays (T, ...), or a dict of them, as the model sees them.
        """

    def finish(self) -> None:
        """Keep no more of the model than `at` needs: neither replay buffer nor environment."""
        self.net.set_training_mode(False)
        del self.model

    def _seen(self, observations: Any) -> Any:
        return self.net.obs_to_tensor(observations)[0]


class OfActorCritic(Policies):
    """PPO's, A2C's and their like: one distribution per step, as the network gave it."""

    def acted_by(self) -> Tensor:
        """See `Policies.acted_by`."""
        return _numbers(self.net.action_dist.distribution)[0]

    def at(self, observations: Any) -> Tensor:
        """See `Policies.at`."""
        return _numbers(self.net.get_distribution(self._seen(observations)).distribution)


class OfQNetwork(Policies):
    """DQN's: the greedy action, or with probability epsilon, and before learning, any."""

    def __init__(self, model: BaseAlgorithm) -> None:
        super().__init__(model)
        self._epsilon = 1.0
        self._num_actions = int(self.model.action_space.n)

    def acted_by(self) -> Tensor:
        """See `Policies.acted_by`."""
        model = self.model
        waits = model.num_timesteps < model.learning_starts
        self._epsilon = 1.0 if waits else float(model.exploration_rate)
        return self.at(model._last_obs)[0]

    def at(self, observations: Any) -> Tensor:
        """See `Policies.at`; epsilon is that of the last step."""
        best = self.net._predict(self._seen(observations), deterministic=True)
        policy = torch.full((len(best), self._num_actions), self._epsilon / self._num_actions)
        policy[torch.arange(len(best)), best] += 1 - self._epsilon
        return policy


class OfSquashed(Policies):
    """SAC's and its like: a Gaussian before the hyperbolic tangent.

    The actions before learning are uniform in the box. They are said to be of the Gaussian that is
    nearest to it once squashed.
    """

    squashes = True

    def acted_by(self) -> Tensor:
        """See `Policies.acted_by`."""
        if self.model.num_timesteps < self.model.learning_starts:
            size = self.model.action_space.shape[0]
            log_std = math.log(SPREAD_OF_UNIFORM)
            return torch.cat((torch.zeros(size), torch.full((size,), log_std)))
        return _numbers(self.net.actor.action_dist.distribution)[0]

    def at(self, observations: Any) -> Tensor:
        """See `Policies.at`."""
        mean, log_std, _ = self.net.actor.get_action_dist_params(self._seen(observations))
        return torch.cat((mean, log_std), dim=-1)


def policies_of(model: BaseAlgorithm) -> Policies | None:
    """How to tell what a model draws from; None where its actions are no draws of every step.

    Deterministic actors with noise added, and noise that is drawn once for many steps, are not.
    """
    from stable_baselines3 import DQN
    from stable_baselines3.common import distributions as known
    from stable_baselines3.common.policies import ActorCriticPolicy

    if getattr(model, "use_sde", False) or model.action_noise is not None:
        return None
    if isinstance(model.policy, ActorCriticPolicy):
        # Subclasses may mask actions, or remember what they saw.
        usual = type(model.policy).get_distribution is ActorCriticPolicy.get_distribution
        drawn = type(model.policy.action_dist)
        of_numbers = (known.CategoricalDistribution, known.MultiCategoricalDistribution)
        usual = usual and drawn in (*of_numbers, known.DiagGaussianDistribution)
        return OfActorCritic(model) if usual else None
    if isinstance(model, DQN):
        return OfQNetwork(model)
    actor = getattr(model, "actor", None)
    if type(getattr(actor, "action_dist", None)) is known.SquashedDiagGaussianDistribution:
        return OfSquashed(model)
    return None


def _numbers(distribution: Any) -> Tensor:
    """Torch's distributions of `B` environments as policies, (B, A) float32."""
    if isinstance(distribution, list):
        return torch.cat([part.probs for part in distribution], dim=-1)
    if isinstance(distribution, torch.distributions.Normal):
        return torch.cat((distribution.mean, distribution.stddev.log()), dim=-1)
    probs: Tensor = distribution.probs
    return probs
