"""What the trainer asks of a method: what the model is shown, and what its output is held to."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.model.heads import Output


class Batch(NamedTuple):
    """What one update is made from."""

    steps: Steps  # (B, T), what the model is shown
    targets: Mapping[str, Tensor]  # by name, (B, T, ...), what the loss holds its output to

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to `device`, from pinned memory without waiting; see `pin`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> "Batch":
        """Move every tensor to memory that a GPU reads by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        targets = {name: change(tensor) for name, tensor in self.targets.items()}
        return Batch(self.steps.map(change), targets)


class Method(Protocol):
    """A way to learn in context: from histories, or from what the model does by itself.

    Attributes:
        needs: Columns of histories that it reads; what lacks one is refused before a run begins.
        follows_weights: Whether batches depend on the model's weights: none is read ahead then.
    """

    needs: frozenset[str]
    follows_weights: bool

    def batch(self, step: int) -> Batch:
        """The batch of update `step`: a pure function of it, of the seed and of the weights.

        Whoever resumes a run has the same batches, with nothing kept between calls.
        """
        ...

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What an update minimises.

        Args:
            output: The model's, of the batch's steps.
            batch: As `batch` gave it, on the model's device.

        Returns:
            The loss, and figures for the log by name; scalars all, the figures without gradients.
        """
        ...
