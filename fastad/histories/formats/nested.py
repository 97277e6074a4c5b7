"""Packed observations as the dicts and tuples of arrays that they are of, and back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.histories.block import ACCEPTED
from fastad.spaces import leaves


def to_nested(space: spaces.Space[Any], packed: np.ndarray) -> Any:
    """Packed observations (n, nbytes) as the space nests them: arrays (n, *shape) at the leaves."""
    return _build(space, iter([leaf.read(packed) for leaf in leaves(space)]))


def from_nested(space: spaces.Space[Any], values: Any, where: str) -> np.ndarray:
    """The reverse of `to_nested`; (n, nbytes) uint8.

    Raises:
        UserError: If a leaf is missing or of another shape; `where` begins the message.
    """
    return from_leaves(space, list(_flat(space, values, where)), where)


def from_leaves(space: spaces.Space[Any], values: list[np.ndarray], where: str) -> np.ndarray:
    """Packed observations (n, nbytes) of the values (n, *shape) of every leaf, in order.

    Raises:
        UserError: If one is of another shape, or its numbers are none that are stored for it.
    """
    layout, num_steps = leaves(space), len(values[0]) if values[0].ndim else 0
    packed = np.empty((num_steps, layout[-1].stop), np.uint8)
    for leaf, given in zip(layout, values, strict=True):
        if given.shape != (num_steps, *leaf.shape):
            raise UserError(
                f"{where}: key {leaf.name!r} of observations has shape {given.shape}, not "
                f"{(num_steps, *leaf.shape)}"
            )
        if given.dtype.kind not in ACCEPTED[leaf.dtype.kind]:
            raise UserError(
                f"{where}: key {leaf.name!r} of observations is {given.dtype}, not {leaf.dtype}"
            )
        with np.errstate(over="ignore"):  # what is not finite then is refused
            cast = np.ascontiguousarray(given, leaf.dtype)
        if leaf.dtype.kind in "iu" and (cast != given).any():
            raise UserError(
                f"{where}: key {leaf.name!r} of observations lies in [{given.min()}, "
                f"{given.max()}], outside its space, {leaf.space}"
            )
        packed[:, leaf.start : leaf.stop] = cast.reshape(num_steps, -1).view(np.uint8)
    return packed


def _build(space: spaces.Space[Any], values: Iterator[np.ndarray]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _build(part, values) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_build(part, values) for part in space)
    return next(values)


def _flat(space: spaces.Space[Any], values: Any, where: str) -> Iterator[np.ndarray]:
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield np.asarray(values)
        return
    parts: Any = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
    for key, part in parts:
        try:
            inner = values[key]
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{where}: observations lack the key {key!r} of their space") from error
        yield from _flat(part, inner, where)
