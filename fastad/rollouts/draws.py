"""Draws of actions where environments are out of step, as if they were in step."""

import torch
from torch import Tensor

from fastad.actions import ActionDistribution


class OwnDraws:
    """The k-th action of an environment is drawn as if all took their k-th step together.

    Then the same random numbers give an environment the same actions, whether it waits for others
    or not. States of the generator are kept from the slowest environment's step to the fastest's,
    and the generator is left as the fastest needs it.

    Args:
        actions: What is drawn.
        num_envs: `N`.
        generator: As it is before the next step of all.
    """

    def __init__(
        self, actions: ActionDistribution, num_envs: int, generator: torch.Generator
    ) -> None:
        self.actions, self.generator = actions, generator
        self.steps = torch.zeros(num_envs, dtype=torch.int64)  # of each, on the host
        self.states = {0: generator.get_state()}  # before the draw for a step

    def draw(self, policy: Tensor, idle: Tensor | None) -> Tensor:
        """Draw actions (N, *shape) for everybody's own next step, which it still is for the idle.

        Args:
            policy: (N, A) float32.
            idle: (N,) bool, or None.
        """
        each = (-1, *[1] * len(self.actions.shape))
        action: Tensor | None = None
        for step in self.steps.unique().tolist():
            self.generator.set_state(self.states[step])
            drawn = self.actions.draw(policy, self.generator)
            self.states.setdefault(step + 1, self.generator.get_state())
            rows = (self.steps == step).to(policy.device).view(each)
            action = drawn if action is None else torch.where(rows, drawn, action)
        assert action is not None
        self.steps = self.steps + (1 if idle is None else ~idle.cpu())
        slowest, fastest = int(self.steps.min()), int(self.steps.max())
        self.states = {step: self.states[step] for step in range(slowest, fastest + 1)}
        self.generator.set_state(self.states[fastest])
        return action
