"""What a frozen model was shown in a rollout, from what it lived through."""

from __future__ import annotations

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.acting.steps import Steps
from fastad.evaluate.prepared import Prepared
from fastad.model.memory import Memory
from fastad.rollouts.agent import InContextAgent
from fastad.rollouts.engine import returns_asked_for
from fastad.rollouts.prompt import Prompt


class _Notes(Memory):
    """A memory that only notes what it is shown, and where contexts begin."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.steps: list[Steps] = []  # each (N, 1)
        self.begins = torch.ones(num_envs, dtype=torch.bool, device=device)

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        raise AssertionError("nobody acts")

    def take(self, steps: Steps) -> None:
        start = self.begins.unsqueeze(1)
        self.steps.append(steps.map(Tensor.clone)._replace(context_start=start))
        self.begins = torch.zeros_like(self.begins)

    def forget(self, mask: Tensor) -> None:
        self.begins = self.begins | mask


@torch.no_grad()
def shown_steps(prepared: Prepared, lived: Transition, rows: list[int]) -> Steps:
    """What the agent showed its model of some rollouts, the prompt's steps before them.

    Args:
        prepared: As they acted; rewards were not shuffled.
        lived: (K, T, ...), on the model's device.
        rows: Which K rollouts of the task set these are.

    Returns:
        (K, prompt's steps + T); `context_start` says where contexts begin. What stands before the
        first of them is padding.
    """
    model, prompt = prepared.model, prepared.prompt
    device = lived.reward.device
    env = prepared.tasks.make_env(prepared.tasks.generator("cpu"))
    asked_for = returns_asked_for(model, env, prepared.target_return)
    notes = _Notes(len(rows), device)
    agent = InContextAgent(
        notes, model.actions, len(rows), generator=torch.Generator(device),
        control=prepared.control, unordered=model.encoder.unordered,
        target_return=None if asked_for is None else asked_for[rows].to(device),
    )  # fmt: skip
    if prompt is not None:
        steps = Transition(*(field[rows] for field in prompt.steps))
        agent.live_through(Prompt(steps, prompt.lengths[rows], prompt.num_episodes, prompt.told))
    lengths = torch.full((len(rows),), lived.reward.shape[1], device=device)
    agent.live_through(Prompt(lived, lengths, prepared.episodes, "the rollout"))
    return Steps.join(notes.steps)
