"""Returns to go of stored episodes."""

from collections.abc import Iterable

import numpy as np

from fastad.histories.histories import Histories


def returns_to_go(
    dataset: Histories, contexts: Iterable[tuple[int, np.ndarray]]
) -> list[np.ndarray]:
    """What stored episodes gave from given steps on, the steps' own rewards included.

    An episode counts as far as it is stored: also where a window cuts it.

    Args:
        dataset: Where the histories are.
        contexts: The numbers of histories, and steps (n,) of each, ascending.

    Returns:
        (n,) float32 of each context.
    """
    rows = []
    for history, steps in contexts:
        bounds = dataset.episode_bounds(history)
        ends = bounds[np.searchsorted(bounds, steps, side="right")]  # of each step's episode
        first, last = int(steps[0]), int(ends[-1])
        reward = dataset.read(history, first, last)["reward"]
        before = np.concatenate([[0.0], reward.cumsum(dtype=np.float64)])  # since `first`
        rows.append((before[ends - first] - before[steps - first]).astype(np.float32))
    return rows
