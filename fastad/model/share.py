"""What is drawn in training, when a batch is dealt out: to every part what the whole would draw."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Share(NamedTuple):
    """Which rows of a whole batch the model is shown.

    Whoever draws at random, as dropout, draws for the whole batch and takes what is for these
    rows. So masks depend on the generator's seed alone, however many parts a batch is dealt into.

    Attributes:
        rows: Their numbers in the whole batch, (B,) int64; changed in place between parts.
        total: Rows of the whole batch.
    """

    rows: Tensor
    total: int

    def of(self, draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int]) -> Tensor:
        """These rows, (B, ...) of `shape`, of what `draw` gives for all."""
        return draw((self.total, *shape[1:])).index_select(0, self.rows)

    def spread(self, x: Tensor) -> Tensor:
        """Put rows (B, ...) where they stand in the whole batch, the others at 0."""
        return x.new_zeros((self.total, *x.shape[1:])).index_copy(0, self.rows, x)


class Dropout(nn.Dropout):
    """Dropout of (B, ...), whose mask does not depend on how a batch is dealt out."""

    share: Share | None = None

    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Dropout`."""
        if self.share is None or not self.training:
            return super().forward(x)
        mask = self.share.of(lambda shape: F.dropout(x.new_ones(shape), self.p), x.shape)
        return x * mask


def take_share(model: nn.Module, share: Share | None) -> None:
    """Tell all parts of a model that draw in training which rows they are shown; None: all."""
    for module in model.modules():
        if hasattr(module, "share"):
            module.share = share  # type: ignore[assignment]
