"""An update of a preset's training, in parts that can be timed: for more than one benchmark."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from gymnasium import spaces

from benchmarks.models import DEVICE, EPISODE_LENGTH, random_steps
from fastad.acting.steps import Steps
from fastad.model.sequence_model import SequenceModel
from fastad.presets import preset
from fastad.training.optimizers import make_optimizers

NUM_STEPS = 200


class Training(NamedTuple):
    """A model, its optimisers, and one batch of Dark Room to fit."""

    model: SequenceModel
    optimizers: list[torch.optim.Optimizer]
    steps: Steps
    actions: torch.Tensor

    def backward(self) -> None:
        """Forward, loss, backward and clipping."""
        logits = self.model(self.steps).policy
        F.cross_entropy(logits.flatten(0, 1), self.actions.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)

    def update(self) -> None:
        """All that `fastad train` does per update, apart from reading histories."""
        self.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def make_training(name: str = "dark-room") -> Training:
    """The training of a preset, on random histories of 200 steps."""
    config = preset(name).train
    torch.manual_seed(0)
    model = SequenceModel(
        config.model, spaces.MultiDiscrete([9, 9]), spaces.Discrete(5), EPISODE_LENGTH
    )
    model.to(DEVICE).train()
    batch = config.settings.batch_size
    actions = torch.randint(5, (batch, NUM_STEPS), device=DEVICE)
    optimizers = make_optimizers(model, config.settings)
    return Training(model, optimizers, random_steps(batch, NUM_STEPS), actions)
