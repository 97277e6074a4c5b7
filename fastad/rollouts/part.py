"""Some environments of a batch, acted in as if all were: what one of several workers does.

What is random is drawn for all of them, so that nothing depends on how they are split.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.actions import ActionDistribution
from fastad.envs.base import BatchedEnv
from fastad.rollouts.prompt import Prompt


@dataclass(frozen=True)
class Part:
    """Which ones.

    Attributes:
        first: Of the environments.
        stop: Behind the last.
        total: `N`, all that there are.
    """

    first: int
    stop: int
    total: int

    @classmethod
    def split(cls, total: int, num_parts: int) -> "list[Part]":
        """All environments, in as many parts of about the same size, but none that is empty."""
        num = min(num_parts, total)
        bounds = [index * total // num for index in range(num + 1)]
        return [cls(first, stop, total) for first, stop in pairwise(bounds)]

    @property
    def rows(self) -> slice:
        """Of what is of all, along its first dimension."""
        return slice(self.first, self.stop)

    def of_prompt(self, prompt: Prompt) -> Prompt:
        """What these environments are shown of it; its length stays that of the longest of all."""
        steps = Transition(*(field[self.rows] for field in prompt.steps))
        return Prompt(steps, prompt.lengths[self.rows], prompt.num_episodes, prompt.told)


class PartOfEnv(BatchedEnv):
    """A part of a batch as a batch of its own.

    Others are stepped as well, with whatever action, where that is the cheapest way to draw what
    they would have drawn, see `BatchedEnv.attend_only`.

    Args:
        whole: All environments; to be used by nobody else.
        part: The ones that matter.
    """

    def __init__(self, whole: BatchedEnv, part: Part) -> None:
        super().__init__(whole.family, whole.tasks[part.rows], whole.generator)
        self.part, self._whole = part, whole
        self.on_host = whole.on_host  # type: ignore[misc]
        whole.attend_only(part.rows)
        unsure = torch.zeros(part.total, self.actions.num_params, device=whole.device)
        self._any_action = self.actions.likeliest(unsure)[0]

    def reset(self) -> Tensor:
        """See `BatchedEnv.reset`."""
        return self._whole.reset()[self.part.rows]

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `BatchedEnv.step`."""
        others = self._any_action
        every = torch.cat((others[: self.part.first], action, others[self.part.stop :]))
        observation, reward, terminated, truncated = (
            field[self.part.rows] for field in self._whole.step(every)
        )
        self.final_observation = self._whole.final_observation[self.part.rows]
        return observation, reward, terminated, truncated

    def untrack(self) -> None:
        """See `BatchedEnv.untrack`."""
        self._whole.untrack()

    def optimal_return(self) -> Tensor | None:
        """See `BatchedEnv.optimal_return`."""
        optimal = self._whole.optimal_return()
        return None if optimal is None else optimal[self.part.rows]


def draw_part(
    actions: ActionDistribution, policy: Tensor, generator: torch.Generator, part: Part
) -> Tensor:
    """Draw actions for all environments and keep those of a part.

    Args:
        actions: Of one step.
        policy: (n, A), of the part.
        generator: Of all.
        part: Of n environments.
    """
    before, after = (policy[:1].expand(n, -1) for n in (part.first, part.total - part.stop))
    return actions.draw(torch.cat((before, policy, after)), generator)[part.rows]
