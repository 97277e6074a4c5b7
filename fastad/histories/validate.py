"""Value checks on a bounded sample of a dataset: what headers and sizes cannot tell."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from fastad.errors import UserError
from fastad.histories.schema import DatasetInfo, columns, rerun

if TYPE_CHECKING:
    from fastad.histories.reader import HistoryDataset

MAX_HISTORIES = 64
MAX_RUNS = 4  # per history: stretches of consecutive steps
MAX_STEPS = 256  # per run
MAX_BYTES = 2**24  # of one column
PROBS_TOLERANCE = 5e-3  # float16 keeps 11 bits of every probability


def check_sample(dataset: "HistoryDataset") -> None:
    """Check the values of evenly spaced steps of evenly spaced histories.

    Small datasets are checked in full; large ones at a cost that does not grow with them.

    Raises:
        UserError: Naming the file, the place, the value and the fix.
    """
    table = columns(dataset.info).values()
    bytes_per_step = max(column.dtype.itemsize * int(np.prod(column.shape)) for column in table)
    budget = MAX_BYTES // (MAX_HISTORIES * MAX_RUNS * max(1, bytes_per_step))
    num_steps = min(MAX_STEPS, max(1, budget))
    for history in spread(dataset.num_histories, MAX_HISTORIES):
        length = int(dataset.lengths[history])
        last_start = max(0, length - num_steps)
        num_runs = min(MAX_RUNS, -(-length // num_steps))
        for start in np.linspace(0, last_start, num_runs).astype(int):
            _check_run(dataset, int(history), int(start), min(int(start) + num_steps, length))


def spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` of the numbers 0 to count - 1, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))


def _check_run(dataset: "HistoryDataset", history: int, start: int, stop: int) -> None:
    shard, row = dataset.locate(history)
    steps = dataset.read(history, start, stop)
    for name, values in steps.items():
        is_wrong, rule = _find_wrong(name, values, dataset.info)
        if is_wrong.any():
            _raise(shard, name, row, start, values, is_wrong, rule)
    if dataset.info.fixed_length:
        length = dataset.info.episode_length
        is_last = np.arange(start + 1, stop + 1) % length == 0
        is_wrong = (steps["terminations"] | steps["truncations"]) != is_last
        rule = f"every episode must end after episode_length={length} steps, and only then"
        if is_wrong.any():
            _raise(shard, "truncations", row, start, steps["truncations"], is_wrong, rule)


def _find_wrong(name: str, values: np.ndarray, info: DatasetInfo) -> tuple[np.ndarray, str]:
    """Mark the steps whose values break a rule, (steps,) bool, and say the rule."""
    if name == "observations":
        return _find_outside(values, info.observation_space)
    if name == "actions":
        return values >= info.num_actions, f"actions are 0 to {info.num_actions - 1}"
    if name == "rewards":
        return ~np.isfinite(values), "rewards must be finite"
    if name == "action_probs":
        probs = values.astype(np.float32)
        is_valid = (probs >= 0).all(-1) & (np.abs(probs.sum(-1) - 1) < PROBS_TOLERANCE)
        return ~is_valid, "probabilities must not be negative and must sum to 1"
    return np.zeros(len(values), dtype=bool), ""


def _find_outside(values: np.ndarray, space: spaces.Space[Any]) -> tuple[np.ndarray, str]:
    rule = f"observation_space is {space}"
    flat = values.reshape(len(values), -1)
    if isinstance(space, spaces.Discrete):
        first, stop = int(space.start), int(space.start + space.n)
        return np.any((flat < first) | (flat >= stop), axis=-1), rule
    if isinstance(space, spaces.MultiDiscrete):
        return np.any(flat >= space.nvec.ravel(), axis=-1), rule
    if values.dtype.kind == "f":
        return ~np.isfinite(flat).all(-1), "observations must be finite"
    return np.zeros(len(values), dtype=bool), rule


def _raise(
    shard: Path,
    name: str,
    row: int,
    start: int,
    values: np.ndarray,
    is_wrong: np.ndarray,
    rule: str,
) -> None:
    index = int(np.argmax(is_wrong))
    raise UserError(
        f"{shard / name}.npy: {name}[{row}, {start + index}] is {values[index].tolist()}; "
        f"{rule}; {rerun(shard)}"
    )
