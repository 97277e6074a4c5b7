"""Where the episodes of a history begin and end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastad.base.errors import UserError
from fastad.histories.npy import load_array


def find_bounds(ended: np.ndarray) -> np.ndarray:
    """Find the episodes of one history.

    Args:
        ended: (T,) bool, whether each step was the last of its episode.

    Returns:
        (E + 1,) int64: episode `e` is steps [bounds[e], bounds[e + 1]). The last may be cut short.
    """
    ends = np.flatnonzero(ended) + 1
    if len(ends) == 0 or ends[-1] != len(ended):
        ends = np.append(ends, len(ended))
    return np.concatenate([[0], ends])


def load_bounds(file: Path, lengths: Sequence[int], *, fix: str) -> list[np.ndarray]:
    """Read the bounds of all histories of a complete shard, stored one behind the other.

    Args:
        file: As written by `ShardWriter`; every history's bounds begin with 0.
        lengths: Steps of each history of the shard.
        fix: Ends every error message.

    Returns:
        Per history, what `find_bounds` gives.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        stored = load_array(file, fix=fix)
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; {fix}") from error
    if stored.ndim != 1 or stored.dtype != np.int64:
        raise UserError(f"{file}: {stored.dtype} of shape {stored.shape}, not int64 (n,); {fix}")
    first = np.flatnonzero(stored == 0)
    last = np.append(first[1:], len(stored)) - 1
    rises = np.diff(stored) > 0
    rises[first[1:] - 1] = True  # from one history to the next
    are_whole = len(first) == len(lengths) and first[0] == 0 and (stored[last] == lengths).all()
    if not are_whole or not rises.all():
        raise UserError(
            f"{file}: not the bounds of {len(lengths)} histories of {max(lengths)} steps; {fix}"
        )
    return np.split(stored, first[1:])
