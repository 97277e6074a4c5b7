"""Acting by the environment's expert, which is told the task: as it is, or with annealed noise."""

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv
from fastad.sources.base import Source, annealed, number
from fastad.sources.visited import Visited


class Expert(Source):
    """Acts by the environment's expert from the first step on, and never learns.

    Args:
        env: One that has an expert; asked for its action at every step.
        num_episodes: Length of the histories.
        generator: Draws the actions.
    """

    name = "expert"
    knows = "the task, as the environment's expert"

    def __init__(self, env: BatchedEnv, *, num_episodes: int, generator: torch.Generator) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self._env = env

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Environments that have an expert."""
        return type(env).expert is not BatchedEnv.expert

    def policy(self, observation: Tensor, phase: Tensor | None = None) -> Tensor:
        """Action distributions, (N, A); `phase` as for `BatchedEnv.expert`."""
        probs = self._env.expert(observation, phase)
        assert probs is not None, "make_source checks that the source fits"
        return probs

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions from the policy."""
        probs = self.policy(observation)
        return self.draw(probs), probs

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """There is nothing to learn."""

    def would_act(self, visited: Visited) -> Tensor:
        """Ask the expert again; see `Source.would_act`."""
        states = zip(visited.observation.unbind(dim=1), visited.phase.unbind(dim=1), strict=True)
        return torch.stack([self.policy(*state) for state in states], dim=1)


class Noise(Expert):
    """AD-epsilon (Zisman et al. 2023, arXiv 2312.12275): the expert behind ever less noise.

    With probability epsilon the action is uniformly random, else the expert's; histories store
    this mixture. In a box, means are epsilon of the way from the expert's to the centre, and
    deviations to half of its width. Over the steps of a history epsilon falls linearly from 1 to
    `final_epsilon`, so that it looks as if somebody learned. A `final_epsilon` above 0 makes it end
    suboptimal.

    Args:
        env: One that has an expert.
        num_episodes: Length of the histories.
        generator: Draws the actions.
        final_epsilon: Where epsilon ends, in [0, 1].
        decay_fraction: The part of the history's steps after which it is there, in (0, 1]; what
            is left shows the policy as it ends.
    """

    name = "noise"

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        final_epsilon: float = 0.0,
        decay_fraction: float = 0.9,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self.is_told("how many steps there will be")
        self.final_epsilon = number("final_epsilon", final_epsilon, low=0.0, high=1.0)
        fraction = number("decay_fraction", decay_fraction, low=1e-6, high=1.0)
        self._decay_steps = fraction * num_episodes * env.episode_length
        self._step = 0

    @property
    def epsilon(self) -> float:
        """Probability of a uniformly random action at the next step."""
        return annealed(self._step, self._decay_steps, self.final_epsilon)

    def policy(self, observation: Tensor, phase: Tensor | None = None) -> Tensor:
        """Between the expert and chance, (N, A)."""
        return self.actions.softened(super().policy(observation, phase), self.epsilon)

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Count the step."""
        self._step += 1
