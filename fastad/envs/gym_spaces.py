"""Between Gymnasium's environments and tensors: observations checked and stored, actions back."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.spaces import Leaf, is_packed, leaves

Where = Callable[[int], str]  # names environment and step, of an index into the batch
WRAP = "correct the environment, or name a callable that wraps it, as --env package.module:callable"
SHOWN = 8  # values of an observation in an error
# What a Box is stored as: in half the room, or in what PyTorch can index and compare.
STORED_AS = {"float64": np.float32, "uint16": np.int32, "uint32": np.int64}


class Observations:
    """From what environments observe to one tensor: (N, ...), see `fastad.spaces`.

    Args:
        space: Of one environment.
        keys: Those of a Dict to keep; none keeps all. One alone is no Dict any more.
        name: Of the environment, for errors.

    Attributes:
        space: Of what is stored: see `STORED_AS`; choices numbered for a MultiBinary space.

    Raises:
        UserError: If the space is not supported, or has no such key.
    """

    def __init__(self, space: spaces.Space[Any], keys: Sequence[str], name: str) -> None:
        try:
            kept, first = _choose(space, keys)
            self.space = stored_space(kept)
            self._leaves = leaves(self.space)
        except UserError as error:
            raise UserError(f"env={name}: observations: {error}") from error
        self._packed = is_packed(self.space)
        self._paths = [(*first, *path) for path in _paths(self.space)]
        self._limits = [_limits(leaf.space) for leaf in self._leaves]

    def of_each(self, observations: Sequence[Any], where: Where) -> Tensor:
        """What N environments observe, one by one, as a tensor (N, ...) of its own.

        Raises:
            UserError: If one is of another structure, shape or dtype than its space, or outside.
        """
        parts = []
        for leaf, path in zip(self._leaves, self._paths, strict=True):
            values = []
            for index, each in enumerate(observations):
                value = np.asarray(_at(each, path, leaf, where, index))
                if value.shape != leaf.shape:
                    raise _wrong(where(index), leaf, f"has shape {value.shape}")
                values.append(value)
            parts.append(np.stack(values))
        return self._together(parts, where)

    def of_batch(self, observations: Any, where: Where) -> Tensor:
        """The same of a vector environment's batch, whose leaves have an axis for N."""
        parts = []
        for leaf, path in zip(self._leaves, self._paths, strict=True):
            values = np.asarray(_at(observations, path, leaf, where, 0))
            if values.shape[1:] != leaf.shape:
                raise _wrong(where(0), leaf, f"has shape {values.shape[1:]}")
            parts.append(values)
        return self._together(parts, where)

    def _together(self, parts: Sequence[np.ndarray], where: Where) -> Tensor:
        """Check leaves (N, *shape) against their spaces, and store them."""
        stored = []
        for leaf, limits, values in zip(self._leaves, self._limits, parts, strict=True):
            _check_dtype(leaf, values, where)
            if leaf.dtype.kind == "f":
                values = values.astype(leaf.dtype)
            inside = (values >= limits[0]) & (values <= limits[1])
            if not inside.all():
                index = int(np.argmin(inside.reshape(len(values), -1).all(axis=1)))
                raise _wrong(where(index), leaf, f"is {_shown(values[index])}")
            stored.append(values.astype(leaf.dtype))
        if not self._packed:
            is_box = isinstance(self.space, spaces.Box)
            return torch.from_numpy(stored[0] if is_box else stored[0].astype(np.int64))
        packed = np.empty((len(stored[0]), self._leaves[-1].stop), np.uint8)
        for leaf, values in zip(self._leaves, stored, strict=True):
            as_bytes = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
            packed[:, leaf.start : leaf.stop] = as_bytes
        return torch.from_numpy(packed)


class Actions:
    """From actions as fastad numbers them to those that environments take.

    Args:
        space: Of one environment.
        name: Of it, for errors.

    Attributes:
        space: Discrete and MultiDiscrete from 0, MultiBinary as choices of two, a Box as a vector
            of float32.

    Raises:
        UserError: If the space is not supported.
    """

    def __init__(self, space: spaces.Space[Any], name: str) -> None:
        self._theirs = space
        if isinstance(space, spaces.Discrete):
            self.space: spaces.Space[Any] = spaces.Discrete(int(space.n))
        elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self.space = spaces.MultiDiscrete(space.nvec)
        elif isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
            self.space = spaces.MultiDiscrete([2] * space.shape[0])
        elif isinstance(space, spaces.Box) and space.dtype.kind == "f" and space.shape:
            low, high = (np.float32(bound.ravel()) for bound in (space.low, space.high))
            self.space = spaces.Box(low, high, dtype=np.float32)
        else:
            raise UserError(
                f"env={name}: action space {space} is not supported; fastad acts in Discrete and "
                f"in lists of MultiDiscrete or MultiBinary choices, and in Boxes of floats; {WRAP}"
            )

    def of_batch(self, action: Tensor) -> np.ndarray:
        """Actions (N, ...) for a vector environment."""
        array = action.cpu().numpy()
        if isinstance(self._theirs, spaces.Discrete | spaces.MultiDiscrete):
            array = array + self._theirs.start
        elif isinstance(self._theirs, spaces.Box):
            # In float32 a bound may lie just outside of that in float64.
            array = array.reshape(len(array), *self._theirs.shape).astype(self._theirs.dtype)
            return np.clip(array, self._theirs.low, self._theirs.high)
        return array.astype(self._theirs.dtype)

    def of_each(self, action: Tensor) -> list[Any]:
        """Actions (N, ...), one by one."""
        return list(self.of_batch(action))


def finite_rewards(rewards: Sequence[Any], where: Where) -> np.ndarray:
    """Rewards (N,) float32.

    Raises:
        UserError: If one is no finite number.
    """
    try:
        array = np.asarray(rewards, np.float32)
        wrong = ~np.isfinite(array) if array.ndim == 1 else np.array([True])
    except (TypeError, ValueError):
        wrong = np.array([not isinstance(reward, int | float | np.number) for reward in rewards])
    if wrong.any():
        index = int(wrong.argmax())
        raise UserError(
            f"{where(index)}: the reward is {rewards[index]}, and must be a finite number; {WRAP}"
        )
    return array


def stored_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space of what is stored of a space's observations."""
    if isinstance(space, spaces.Dict):
        parts = {key: stored_space(part) for key, part in space.items()}
        return spaces.Dict(parts, sort_keys=False)
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([stored_space(part) for part in space])
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiDiscrete(np.full(space.shape, 2))
    if isinstance(space, spaces.Box) and space.dtype == np.uint64:
        raise UserError(f"space {space} is of 64 unsigned bits, which no tensor holds; use int64")
    if isinstance(space, spaces.Box) and space.dtype.name in STORED_AS:
        kind = STORED_AS[space.dtype.name]
        return spaces.Box(space.low.astype(kind), space.high.astype(kind), dtype=kind)
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n), start=int(space.start))
    return space


def _choose(
    space: spaces.Space[Any], keys: Sequence[str]
) -> tuple[spaces.Space[Any], tuple[str, ...]]:
    """The part of a space that is kept, and the path to it."""
    if not keys:
        return space, ()
    if not isinstance(space, spaces.Dict):
        raise UserError(f"observe={','.join(keys)} chooses keys of a Dict, and they are {space}")
    for key in keys:
        if key not in space.spaces:
            raise unknown("key in observe", key, map(str, space))
    if len(keys) == 1:
        return space[keys[0]], (keys[0],)
    return spaces.Dict({key: space[key] for key in keys}, sort_keys=False), ()


def _paths(space: spaces.Space[Any]) -> list[tuple[Any, ...]]:
    """The keys to every leaf, in the order of `leaves`."""
    if isinstance(space, spaces.Dict):
        return [(key, *path) for key, part in space.items() for path in _paths(part)]
    if isinstance(space, spaces.Tuple):
        return [(key, *path) for key, part in enumerate(space) for path in _paths(part)]
    return [()]


def _at(observation: Any, path: Sequence[Any], leaf: Leaf, where: Where, index: int) -> Any:
    """The part of an observation that the keys of a path lead to."""
    for key in path:
        try:
            observation = observation[key]
        except (KeyError, IndexError, TypeError) as error:
            raise _wrong(where(index), leaf, "is not there") from error
    return observation


def _limits(space: spaces.Space[Any]) -> tuple[Any, Any]:
    """The least and the largest value of a leaf, in every place."""
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return 0, space.nvec - 1
    assert isinstance(space, spaces.Box)
    if space.low.dtype.kind != "f":
        return space.low, space.high
    finite = np.finfo(space.low.dtype)
    return np.maximum(space.low, finite.min), np.minimum(space.high, finite.max)


def _check_dtype(leaf: Leaf, values: np.ndarray, where: Where) -> None:
    """Refuse what would be changed by storing it: a fraction for a whole number, text."""
    kinds = {"f": "biuf", "b": "b"}.get(leaf.dtype.kind, "biu")
    if values.dtype.kind not in kinds:
        raise _wrong(where(0), leaf, f"is of dtype {values.dtype}")


def _wrong(where: str, leaf: Leaf, what: str) -> UserError:
    key = f" at key {leaf.name!r}" if leaf.name else ""
    return UserError(f"{where}: observation{key} {what}, and its space is {leaf.space}; {WRAP}")


def _shown(values: np.ndarray) -> str:
    flat = values.ravel().tolist()
    return str(flat[0] if values.ndim == 0 else flat[:SHOWN]) + ("..." if len(flat) > SHOWN else "")
