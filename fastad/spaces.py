"""Gymnasium spaces to and from plain JSON, so that datasets and checkpoints carry them."""

from typing import Any

import numpy as np
from gymnasium import spaces

from fastad.errors import UserError

SUPPORTED = "Discrete, MultiDiscrete and Box"


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
            return spaces.Discrete(description["n"], start=description.get("start", 0))
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete(np.asarray(description["nvec"], dtype=np.int64))
        if kind == "Box":
            shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
            low, high = (_bound_from_json(description[key], shape) for key in ("low", "high"))
            return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)
    except (KeyError, TypeError, AssertionError) as error:
        raise UserError(f"space {description!r} is malformed: {error!r}") from error
    raise UserError(f"space type {kind!r} is not supported; fastad reads {SUPPORTED}")


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number where the bound is uniform; infinities as strings, which JSON lacks."""
    flat = np.unique(bound)
    values = flat if flat.size == 1 else bound.ravel()
    named = [float(v) if np.isfinite(v) else str(float(v)) for v in values]
    return named[0] if flat.size == 1 else named


def _bound_from_json(bound: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(bound, dtype=np.float64)
    return np.broadcast_to(values, shape) if values.ndim == 0 else values.reshape(shape)
