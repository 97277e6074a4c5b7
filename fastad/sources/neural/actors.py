"""Several environments per learner: the history's own, and further ones of the same task."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv
from fastad.sources.neural.inputs import Inputs
from fastad.sources.phases import Phases


class Outcome(NamedTuple):
    """What one step of every actor led to."""

    action: Tensor  # (N, K) int64, as executed
    reward: Tensor  # (N, K) float32
    terminated: Tensor  # (N, K) bool
    truncated: Tensor  # (N, K) bool


class Actors:
    """`K` actors of each of `N` learners: the first acts in the history's own environment.

    The others act in environments of the same task that are stepped here, so that a history is
    one stream of experience however many its learner learns from.

    Args:
        env: The histories' own environments, N.
        num_actors: `K`.
        generator: The others' only source of randomness.
        inputs: What they see, as vectors.
    """

    def __init__(
        self, env: BatchedEnv, num_actors: int, generator: torch.Generator, inputs: Inputs
    ) -> None:
        self.shape, self.inputs = (env.num_envs, num_actors), inputs
        self.phases = Phases(env.num_envs * num_actors, inputs.num_phases, env.device)
        self._others: BatchedEnv | None = None
        if num_actors > 1:
            tasks = env.tasks.repeat_interleave(num_actors - 1, dim=0)
            self._others = env.family.make(tasks, generator)
            self._observation = self._others.reset()

    def see(self, observation: Tensor) -> Tensor:
        """What all actors see, (N, K, in), where the first see `observation` (N, ...)."""
        if self._others is not None:
            observation = self._join(observation, self._observation)
        return self._vectors(observation, self.phases.now)

    def step(self, action: Tensor, first: Transition, final_observation: Tensor) -> Outcome:
        """Let the others act as the first did already.

        Args:
            action: (N, K) int64; the first actors' is not read.
            first: What the first actors did.
            final_observation: (N, ...) where that really ended.
        """
        results = [first.action, first.reward, first.terminated, first.truncated]
        if self._others is not None:
            theirs = action[:, 1:].flatten()
            self._observation, *others = self._others.step(theirs)
            results = [self._join(*pair) for pair in zip(results, (theirs, *others), strict=True)]
        executed, reward, terminated, truncated = results
        phase = self.phases.after(reward)
        self._final = final_observation, phase
        self.phases.move_on(phase, terminated | truncated)
        return Outcome(
            executed.view(self.shape),
            reward.view(self.shape),
            terminated.view(self.shape),
            truncated.view(self.shape),
        )

    def led_to(self) -> Tensor:
        """What all actors would see where the latest step really ended, (N, K, in)."""
        observation, phase = self._final
        if self._others is not None:
            observation = self._join(observation, self._others.final_observation)
        return self._vectors(observation, phase)

    def _vectors(self, observation: Tensor, phase: Tensor) -> Tensor:
        return self.inputs(observation, phase).view(*self.shape, -1)

    def _join(self, first: Tensor, others: Tensor) -> Tensor:
        """One tensor (N * K, ...) of the first actors' (N, ...) and the others'."""
        num_learners, num_actors = self.shape
        others = others.view(num_learners, num_actors - 1, *others.shape[1:])
        return torch.cat((first[:, None], others), dim=1).flatten(0, 1)
