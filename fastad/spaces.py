"""Gymnasium spaces: to and from plain JSON, and what is stored of the values in them.

Datasets and checkpoints carry spaces as JSON. An observation is one tensor everywhere: those of a
Dict or Tuple are *packed*, the bytes of their leaves one after another.
"""

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError

SUPPORTED = "Discrete, MultiDiscrete and Box, and Dict and Tuple of these"
CHOOSE = "leave it out: observe=KEY,KEY names the keys of a Dict to keep, such as image,direction"
CHANNELS = (1, 3, 4)  # that images have
# A description may be damaged: beyond these, nothing is allocated for it.
MAX_SIZE, MAX_VALUES, MAX_PARTS, MAX_DEPTH = 2**31 - 1, 2**24, 1024, 8
MAX_SHOWN = 120  # characters of a space in an error
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Describe a Discrete, MultiDiscrete or Box space, or a Dict or Tuple of them, as JSON.

    Raises:
        UserError: For any other space, naming the key that leads to it.
    """
    if isinstance(space, spaces.Dict):
        leaves(space)
        return {"type": "Dict", "spaces": [[k, space_to_json(s)] for k, s in space.items()]}
    if isinstance(space, spaces.Tuple):
        leaves(space)
        return {"type": "Tuple", "spaces": [space_to_json(part) for part in space]}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        if np.any(space.start != 0):
            raise UserError(f"space {space} does not start at 0; fastad stores those that do")
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "low": _bound_to_json(space.low),
            "high": _bound_to_json(space.high),
            "dtype": str(space.dtype),
        }
    raise UserError(f"space {space} is not supported; fastad stores {SUPPORTED}")


def space_from_json(description: dict[str, Any]) -> spaces.Space[Any]:
    """Rebuild a space from `space_to_json`.

    Raises:
        UserError: If the description names no supported space or lacks a field.
    """
    try:
        _check_size(description)
        kind = description["type"]
        if kind == "Dict":
            parts = [(key, space_from_json(part)) for key, part in description["spaces"]]
            return _checked(spaces.Dict(dict(parts), sort_keys=False), len(parts))
        if kind == "Tuple":
            return _checked(spaces.Tuple([space_from_json(p) for p in description["spaces"]]))
        if kind == "Discrete":
            n, start = _whole(description["n"], 1), _whole(description.get("start", 0))
            return spaces.Discrete(n, start=start)
        if kind == "MultiDiscrete":
            nvec = np.asarray(_nested(description["nvec"]), dtype=np.int64)
            if nvec.size == 0:
                raise ValueError("nvec holds no numbers")
            return spaces.MultiDiscrete(nvec)
        if kind == "Box":
            return _box_from_json(description)
    except UserError:
        raise
    except (KeyError, TypeError, AssertionError, ValueError, OverflowError) as error:
        shown = reprlib.repr(description)
        reason = _shown(f"{type(error).__name__}: {error}")
        raise UserError(f"space {shown} is malformed: {reason}") from error
    raise UserError(f"space type {reprlib.repr(kind)} is not supported; fastad reads {SUPPORTED}")


@dataclass(frozen=True)
class Leaf:
    """A space without parts: one of those that a Dict or Tuple is made of, or the whole.

    Attributes:
        name: The keys that lead to it, as "agent.position" or "0"; "" for the whole.
        space: Discrete, MultiDiscrete or Box.
        dtype: That is stored: the smallest unsigned one of a discrete space, a Box's own; within
            a Dict or Tuple, float32 for float64.
        shape: Of one value.
        start: Where its bytes begin in the packed observation.
        stop: Where they end.
    """

    name: str
    space: spaces.Space[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int

    def read(self, packed: np.ndarray) -> np.ndarray:
        """Its values in packed observations (..., nbytes) uint8; (..., *shape) of `dtype`."""
        part = np.ascontiguousarray(packed[..., self.start : self.stop])
        return part.view(self.dtype).reshape((*packed.shape[:-1], *self.shape))


def is_packed(space: spaces.Space[Any]) -> bool:
    """Whether observations of the space are stored as the bytes of its leaves."""
    return isinstance(space, (spaces.Dict, spaces.Tuple))


def leaves(space: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """What a space is made of, in the order of its bytes; nested spaces flattened.

    Raises:
        UserError: If a leaf is of a kind that cannot be stored, naming it, if two have the same
            name, or if there are none.
    """
    found: list[Leaf] = []
    start, packed = 0, is_packed(space)
    for name, part in _parts(space, ""):
        dtype, shape = stored_as(part, name)
        if packed and dtype == np.float64:
            dtype = np.dtype(np.float32)
        stop = start + dtype.itemsize * prod(shape)
        found.append(Leaf(name, part, dtype, shape, start, stop))
        start = stop
    names = [leaf.name for leaf in found]
    if len(set(names)) < len(names) or not 0 < start <= 8 * MAX_VALUES or len(found) > MAX_PARTS:
        raise UserError(
            f"space {_shown(space)} has {len(found)} parts of {start:,} bytes; fastad stores 1 to "
            f"{MAX_PARTS} parts, each of another name, of at most {8 * MAX_VALUES:,} bytes"
        )
    return tuple(found)


def stored_as(space: spaces.Space[Any], name: str = "") -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape in which histories store one value of a space.

    The smallest unsigned integers that hold a discrete space; a Box as it is; a Dict or Tuple as
    bytes.

    Raises:
        UserError: For a space that cannot be stored; `name` is the key that leads to it.
    """
    if is_packed(space):
        return np.dtype(np.uint8), (leaves(space)[-1].stop,)
    if isinstance(space, spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n - 1)
        return np.promote_types(np.min_scalar_type(first), np.min_scalar_type(last)), ()
    if isinstance(space, spaces.MultiDiscrete):
        if np.any(space.start != 0):
            raise UserError(
                f"{_where(space, name)} does not start at 0; fastad stores those that do"
            )
        return np.min_scalar_type(int(space.nvec.max()) - 1), space.nvec.shape
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).name in DTYPES:
        return np.dtype(space.dtype), space.shape
    fix = f"; {CHOOSE}" if name else ""
    raise UserError(f"{_where(space, name)} is not supported; fastad stores {SUPPORTED}{fix}")


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space is of uint8 images, (rows, columns, channels) or channels first."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3 or space.dtype != np.uint8:
        return False
    return bool({space.shape[0], space.shape[-1]} & {*CHANNELS})


def rows_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Rows, columns and channels of an image's shape."""
    return shape if shape[-1] in CHANNELS else (*shape[1:], shape[0])


def pack(space: spaces.Space[Any], observation: Any) -> np.ndarray:
    """One observation of a Dict or Tuple as the bytes of its leaves, (nbytes,) uint8.

    Args:
        space: The Dict or Tuple.
        observation: An element of it; dtypes are converted, values are not checked.

    Raises:
        UserError: If a part is missing or of another shape.
    """
    layout = leaves(space)
    packed = np.empty(layout[-1].stop, np.uint8)
    for leaf, value in zip(layout, _values(space, observation, ""), strict=True):
        array = np.asarray(value)
        if array.shape != leaf.shape:
            raise UserError(
                f"observation{_at(leaf.name)} has shape {array.shape}, its space {leaf.shape}"
            )
        cast = np.ascontiguousarray(array, leaf.dtype).reshape(-1)
        packed[leaf.start : leaf.stop] = cast.view(np.uint8)
    return packed


def unpack(space: spaces.Space[Any], packed: Tensor) -> dict[str, Tensor]:
    """Packed observations (..., nbytes) uint8 as the values of each leaf, by name.

    Returns:
        (..., *shape) each: int64 of discrete spaces, the stored dtype of a Box.
    """
    return read_leaves(leaves(space), packed)


def read_leaves(layout: Sequence[Leaf], packed: Tensor) -> dict[str, Tensor]:
    """As `unpack`, of a space whose leaves are known."""
    values = {}
    for leaf in layout:
        # A copy of its own: only aligned memory can be viewed as wider numbers.
        part = packed[..., leaf.start : leaf.stop].clone(memory_format=torch.contiguous_format)
        value = part.view(getattr(torch, leaf.dtype.name)).reshape(
            (*packed.shape[:-1], *leaf.shape)
        )
        values[leaf.name] = value if isinstance(leaf.space, spaces.Box) else value.long()
    return values


def _parts(space: spaces.Space[Any], name: str) -> Iterator[tuple[str, spaces.Space[Any]]]:
    """Every leaf below a space, by name."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield name, space
        return
    parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
    for key, part in parts:
        if not isinstance(key, (str, int)):
            raise UserError(f"key {key!r} of space {_shown(space)} is no text; rename it")
        yield from _parts(part, f"{name}.{key}" if name else str(key))


def _values(space: spaces.Space[Any], value: Any, name: str) -> Iterator[Any]:
    """The values of every leaf, in the order of `_parts`."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield value
        return
    keys: Any = space.keys() if isinstance(space, spaces.Dict) else range(len(space))
    if not isinstance(value, (dict, tuple, list)):
        raise UserError(f"observation{_at(name)} is {_shown(value)}, its space has {list(keys)}")
    given = value if isinstance(value, dict) else dict(enumerate(value))
    if given.keys() != set(keys):
        raise UserError(f"observation{_at(name)} has parts {list(given)}, its space {list(keys)}")
    for key in keys:
        yield from _values(space[key], given[key], f"{name}.{key}" if name else str(key))


def _at(name: str) -> str:
    return f" at key {name!r}" if name else ""


def _where(space: spaces.Space[Any], name: str) -> str:
    return f"key {name!r}: space {_shown(space)}" if name else f"space {_shown(space)}"


def _shown(value: object) -> str:
    """Text of a length that can be read: spaces of text list every letter."""
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _check_size(description: Any, depth: int = 0) -> int:
    """Refuse a damaged description before anything is built; returns the values it speaks of."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if not isinstance(description, dict):
        raise ValueError(f"{reprlib.repr(description)} is no description of a space")
    parts = description.get("spaces", [])
    if not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise ValueError(f"spaces must be at most {MAX_PARTS} descriptions")
    if description.get("type") == "Dict":
        if not all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in parts):
            raise ValueError("spaces of a Dict must be pairs of a key and a description")
        parts = [part for _, part in parts]
    values = prod(_whole(size, 0) for size in description.get("shape", ()))
    values += sum(_check_size(part, depth + 1) for part in parts)
    if values > MAX_VALUES:
        raise ValueError(f"{values:,} numbers in an observation, at most {MAX_VALUES:,}")
    return values


def _checked(space: spaces.Space[Any], num_keys: int | None = None) -> spaces.Space[Any]:
    if num_keys not in (None, len(space)):  # type: ignore[arg-type]
        raise ValueError("a key stands twice")
    leaves(space)
    return space


def _box_from_json(description: dict[str, Any]) -> spaces.Box:
    shape, dtype = tuple(_whole(size, 0) for size in description["shape"]), description["dtype"]
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    low, high = (_bound_from_json(description[key], shape) for key in ("low", "high"))
    if not (low <= high).all():
        raise ValueError("low must not exceed high")
    kind = np.dtype(dtype)
    return spaces.Box(_as_bound(low, kind), _as_bound(high, kind), shape, kind.type)


def _whole(value: object, least: int = -MAX_SIZE) -> int:
    if type(value) is not int or not least <= value <= MAX_SIZE:
        raise ValueError(f"{value!r} is no whole number from {least} to {MAX_SIZE}")
    return value


def _nested(sizes: Any) -> Any:
    """A list of sizes, or a list of such lists."""
    return [_nested(size) for size in sizes] if isinstance(sizes, list) else _whole(sizes, 1)


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number where the bound is uniform; infinities as strings, which JSON lacks."""
    flat = np.unique(bound)
    values = flat if flat.size == 1 else bound.ravel()
    named = [float(v) if np.isfinite(v) else str(float(v)) for v in values]
    return named[0] if flat.size == 1 else named


def _as_bound(values: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    """Bounds (...) float64 in the dtype of a Box; JSON rounds the largest of 64 bits to beyond."""
    if kind.kind not in "iu":
        return values.astype(kind)
    least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    whole = [min(max(int(value), least), most) for value in values.ravel()]
    return np.array(whole, kind).reshape(values.shape)


def _bound_from_json(bound: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(bound, dtype=np.float64)
    return np.broadcast_to(values, shape) if values.ndim == 0 else values.reshape(shape)
