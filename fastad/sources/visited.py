"""States that learners were in, to ask what they would do there now."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv
from fastad.sources.phases import Phases


class Visited(NamedTuple):
    """Where `N` learners were at `T` consecutive steps."""

    observation: Tensor  # (N, T, ...)
    phase: Tensor  # (N, T) int64, see `Rules`
    episode_step: Tensor  # (N, T) int64, since the episode began


class Follower:
    """Tells where in their episodes learners were, from the blocks of their histories.

    Args:
        env: What they act in.
    """

    def __init__(self, env: BatchedEnv) -> None:
        rules = env.rules()
        self._phases = Phases(env.num_envs, 1 if rules is None else rules.num_phases, env.device)
        self._episode_step = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)

    def follow(self, block: Transition) -> Visited:
        """What was visited in a block (N, T, ...), which continues those before."""
        phases, steps = [], []
        ended = block.terminated | block.truncated
        for reward, over in zip(block.reward.unbind(dim=1), ended.unbind(dim=1), strict=True):
            phases.append(self._phases.now)
            steps.append(self._episode_step)
            self._phases.move_on(self._phases.after(reward), over)
            self._episode_step = (self._episode_step + 1).masked_fill_(over, 0)
        return Visited(block.observation, torch.stack(phases, dim=1), torch.stack(steps, dim=1))
