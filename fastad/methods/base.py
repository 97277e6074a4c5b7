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

    def split(self, parts: int) -> "list[Batch]":
        """Its rows, in as many equal parts, in order."""
        if parts == 1:
            return [self]
        size = len(self.steps.previous_action) // parts
        starts = range(0, parts * size, size)
        return [self._map(lambda tensor, at=at: tensor[at : at + size]) for at in starts]  # type: ignore[misc]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        targets = {name: change(tensor) for name, tensor in self.targets.items()}
        return Batch(self.steps.map(change), targets)


class Method(Protocol):
    """A way to learn in context: from histories, or from what the model does by itself.

    Each of several ranks is told its own number, and gives its own rows of every batch.

    Attributes:
        needs: Columns of histories that it reads; what lacks one is refused before a run begins.
        follows_weights: Whether batches depend on the model's weights: none is read ahead then.
        has_moments: Whether the loss of a part of a batch depends on the rest; see `moments`.
    """

    needs: frozenset[str]
    follows_weights: bool
    has_moments: bool

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
            The loss, a mean over rows: of equal parts of a batch, its mean is that of the whole.
            And figures for the log by name; scalars all, the figures without gradients.
        """
        ...

    def moments(self, output: Output, batch: Batch) -> Tensor:
        """What the loss of a part has to know of the whole batch, as sums over rows.

        Args:
            output: See `loss`.
            batch: As well; a part of what is learned from.

        Returns:
            (n,) float64 without gradient. Added up over all parts, it is given to `loss` as the
            target "moments". A batch in one part does without.
        """
        ...
