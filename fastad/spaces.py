"""Gymnasium spaces to and from plain JSON, so that datasets and checkpoints carry them."""

import reprlib
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces

from fastad.base.errors import UserError

SUPPORTED = "Discrete, MultiDiscrete and Box"
# A description may be damaged: beyond these, nothing is allocated for it.
MAX_SIZE, MAX_VALUES = 2**31 - 1, 2**24
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Describe a Discrete, MultiDiscrete or Box space as a JSON object.

    Raises:
        UserError: For any other space.
    """
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
        kind = description["type"]
        if kind == "Discrete":
            n, start = _whole(description["n"], 1), _whole(description.get("start", 0))
            return spaces.Discrete(n, start=start)
        if kind == "MultiDiscrete":
            nvec = np.asarray(_nested(description["nvec"]), dtype=np.int64)
            return spaces.MultiDiscrete(nvec)
        if kind == "Box":
            return _box_from_json(description)
    except (KeyError, TypeError, AssertionError, ValueError, OverflowError) as error:
        shown = reprlib.repr(description)
        raise UserError(f"space {shown} is malformed: {reprlib.repr(error)}") from error
    raise UserError(f"space type {reprlib.repr(kind)} is not supported; fastad reads {SUPPORTED}")


def _box_from_json(description: dict[str, Any]) -> spaces.Box:
    shape, dtype = tuple(_whole(size, 0) for size in description["shape"]), description["dtype"]
    if prod(shape) > MAX_VALUES:
        raise ValueError(f"{prod(shape):,} numbers in an observation, at most {MAX_VALUES:,}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    low, high = (_bound_from_json(description[key], shape) for key in ("low", "high"))
    if not (low <= high).all():
        raise ValueError("low must not exceed high")
    kind = np.dtype(dtype)
    return spaces.Box(low.astype(kind), high.astype(kind), shape, kind.type)


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


def _bound_from_json(bound: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(bound, dtype=np.float64)
    return np.broadcast_to(values, shape) if values.ndim == 0 else values.reshape(shape)
