"""What tokens are sums of: rows of tables, and features."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fastad.model.kernels import Implementation, embed


class Rows(NamedTuple):
    """Rows of a table, summed, times a number; not yet looked up.

    Attributes:
        table: (rows, width).
        indices: (B, T, K) int64, `K` rows of it.
        factor: (B, T), or None for 1.
    """

    table: Tensor
    indices: Tensor
    factor: Tensor | None = None

    @classmethod
    def one(cls, table: Tensor, index: Tensor, factor: Tensor | None = None) -> "Rows":
        """One row for each of (B, T) numbers, of any type."""
        return cls(table, index.long().unsqueeze(-1), factor)


def add_up(terms: Sequence[Rows | Tensor], impl: Implementation) -> Tensor:
    """The sum of all terms, (B, T, width), rows first, then features in their order."""
    rows = [term for term in terms if isinstance(term, Rows)]
    features = [term for term in terms if isinstance(term, Tensor)]
    if rows:
        tables, indices, factors = zip(*rows, strict=True)
        features.insert(0, embed(tables, indices, factors, impl=impl))
    total, *others = features
    for other in others:
        total = total + other
    return total
