"""Returns to go of stored episodes."""

import numpy as np

from fastad.histories.reader import HistoryDataset


def returns_to_go(
    dataset: HistoryDataset, histories: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """What stored episodes gave from given steps on, the steps' own rewards included.

    An episode counts as far as it is stored: also where a window cuts it.

    Args:
        dataset: Where the histories are.
        histories: (B,), their numbers.
        positions: (B, T), steps of each, ascending.

    Returns:
        (B, T) float32.
    """
    rows = []
    for history, steps in zip(histories, positions, strict=True):
        bounds = dataset.episode_bounds(int(history))
        ends = bounds[np.searchsorted(bounds, steps, side="right")]  # of each step's episode
        first, last = int(steps[0]), int(ends[-1])
        reward = dataset.read(int(history), first, last)["reward"]
        before = np.concatenate([[0.0], reward.cumsum(dtype=np.float64)])  # since `first`
        rows.append(before[ends - first] - before[steps - first])
    return np.stack(rows).astype(np.float32)
