"""What is appended to a shard: held to its column before anything is cast or written."""

from typing import Any, NamedTuple

import numpy as np

from fastad.actions import POLICY_TOLERANCE, ActionDistribution
from fastad.base.errors import UserError
from fastad.histories.columns import Column, columns
from fastad.histories.schema import POLICIES, DatasetInfo
from fastad.histories.validate import Limits, limits_of

# Of dtypes, by the kind of the column. A float is no action, even where it is whole.
ACCEPTED = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}
NAMES = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}


class BlockChecker:
    """Checks the blocks of a dataset, and gives them the dtypes that are stored.

    Args:
        info: Of the dataset.
    """

    def __init__(self, info: DatasetInfo) -> None:
        distribution = info.actions
        self._rules = [
            _Rule(name, column, limits_of(name, info), distribution if name in POLICIES else None)
            for name, column in columns(info).items()
        ]

    def arrays(self, block: Any, num_histories: int) -> list[np.ndarray]:
        """Check a block, field by field.

        Args:
            block: A `Transition`, or a mapping, of fields (N, steps, ...) by the names of columns,
                tensors on any device or arrays; others are ignored.
            num_histories: `N`.

        Returns:
            The fields in the order of the columns, ready to be stored, all with as many steps.

        Raises:
            UserError: If a field is missing, or its shape, dtype or values do not fit.
        """
        fields = block._asdict() if hasattr(block, "_asdict") else dict(block)
        missing = [rule.name for rule in self._rules if fields.get(rule.name) is None]
        if missing:
            raise UserError(
                f"block lacks {', '.join(missing)}; the dataset has the columns "
                f"{', '.join(rule.name for rule in self._rules)}"
            )
        chosen = [fields[rule.name] for rule in self._rules]
        given = [_to_numpy(field) for field in chosen]
        rewards = _to_numpy(fields["reward"])
        num_steps = rewards.shape[1] if rewards.ndim == 2 else -1
        for rule, values in zip(self._rules, given, strict=True):
            expected = (num_histories, num_steps, *rule.column.shape)
            if values.shape != expected:
                raise UserError(f"{rule.name} of a block has shape {values.shape}, not {expected}")
            rule.check(values)
        return [
            _cast(field, values, rule.column)
            for field, values, rule in zip(chosen, given, self._rules, strict=True)
        ]


class _Rule(NamedTuple):
    name: str
    column: Column
    limits: list[Limits]
    distribution: ActionDistribution | None  # of a policy

    def check(self, values: np.ndarray) -> None:
        kind = self.column.dtype.kind
        if values.dtype.kind not in ACCEPTED[kind]:
            raise UserError(
                f"{self.name} of a block is {values.dtype}, stored as {self.column.dtype}; give "
                f"{NAMES[kind]}"
            )
        if values.size == 0:
            return
        for limits in self.limits:
            self._check_range(limits.part(values), limits)
        if self.distribution is not None:
            # Twice as strict as a reader, who sees them rounded to float16.
            most = self.distribution.defect(values).max()
            if not most < POLICY_TOLERANCE / 2:
                raise UserError(
                    f"{self.name} of a block: {self.distribution.rule}; a sum is off by {most:.3g}"
                )

    def _check_range(self, values: np.ndarray, limits: Limits) -> None:
        axes = (0, 1) if isinstance(limits.low, np.ndarray) else None
        least, most = values.min(axis=axes), values.max(axis=axes)
        # Not a number passes no comparison.
        if np.all((least >= limits.low) & (most <= limits.high)):
            return
        if not np.isfinite(values).all():
            where = "" if limits.leaf is None else f"; {limits.rule}"
            raise UserError(f"{self.name} of a block holds values that are not finite{where}")
        bounds = limits.rule if axes else f"[{limits.low}, {limits.high}]; {limits.rule}"
        raise UserError(
            f"{self.name} of a block lies in [{least.min()}, {most.max()}], outside {bounds}"
        )


def _to_numpy(field: Any) -> np.ndarray:
    """A tensor on any device, or an array, as an array of the same values."""
    if not hasattr(field, "detach"):
        return np.asarray(field)
    field = field.detach()
    if field.is_floating_point() and field.element_size() < 4:
        field = field.float()  # NumPy has no bfloat16
    return np.asarray(field.cpu())


def _cast(field: Any, values: np.ndarray, column: Column) -> np.ndarray:
    if column.dtype == np.float16 and hasattr(field, "detach"):
        # NumPy rounds to float16 one number after the other: up to 60 times slower than PyTorch.
        return np.asarray(field.detach().half().cpu())
    return values
