"""Value checks on a bounded sample of a dataset: what headers and sizes cannot tell."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from fastad.actions import POLICY_TOLERANCE, ActionDistribution
from fastad.base.errors import UserError
from fastad.histories.columns import columns, stem
from fastad.histories.meta import rerun
from fastad.histories.schema import POLICIES, DatasetInfo
from fastad.spaces import Leaf, is_packed, leaves

if TYPE_CHECKING:
    from fastad.histories.reader import HistoryDataset

MAX_HISTORIES = 64
MAX_RUNS = 4  # per history: stretches of consecutive steps
MAX_STEPS = 256  # per run
MAX_BYTES = 2**24  # of one column


def check_sample(dataset: "HistoryDataset") -> None:
    """Check the values of evenly spaced steps of evenly spaced histories.

    Small datasets are checked in full; large ones at a cost that does not grow with them.

    Raises:
        UserError: Naming the file, the place, the value and the fix.
    """
    limits = _reading_limits(dataset.info)
    table = columns(dataset.info).values()
    bytes_per_step = max(column.dtype.itemsize * int(np.prod(column.shape)) for column in table)
    budget = MAX_BYTES // (MAX_HISTORIES * MAX_RUNS * max(1, bytes_per_step))
    num_steps = min(MAX_STEPS, max(1, budget))
    for history in spread(dataset.num_histories, MAX_HISTORIES):
        length = int(dataset.lengths[history])
        last_start = max(0, length - num_steps)
        num_runs = min(MAX_RUNS, -(-length // num_steps))
        for start in np.linspace(0, last_start, num_runs).astype(int):
            stop = min(int(start) + num_steps, length)
            _check_run(dataset, limits, int(history), int(start), stop)


class Limits(NamedTuple):
    """The values that a column may hold, in every place of a step or in each of its own."""

    low: Any  # a number, or an array of a step's shape
    high: Any
    rule: str
    leaf: Leaf | None = None  # the part of a packed column that is meant

    def part(self, values: np.ndarray) -> np.ndarray:
        """What is meant of the column's values (..., *shape)."""
        return values if self.leaf is None else self.leaf.read(values)


def limits_of(name: str, info: DatasetInfo) -> list[Limits]:
    """The values that the column `name` may hold, part by part; none for flags, which hold any."""
    if name == "observation":
        return _limits_of_space(info.observation_space, "observation_space")
    if name == "action":
        if isinstance(info.action_space, spaces.Discrete):
            last = int(info.action_space.n) - 1
            return [Limits(0, last, f"actions are 0 to {last}")]
        return _limits_of_space(info.action_space, "action_space")
    if name == "reward":
        return [Limits(*finite_range(np.dtype(np.float32)), "rewards must be finite")]
    if name in POLICIES:
        return [Limits(*info.actions.policy_limits, info.actions.rule)]
    return []


def finite_range(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The least and the largest finite number of a dtype."""
    if dtype.kind == "b":
        return False, True
    found = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return found.min, found.max


def _limits_of_space(space: spaces.Space[Any], name: str) -> list[Limits]:
    if not is_packed(space):
        return [_limits_of_leaf(space, f"{name} is {space}")]
    found = []
    for leaf in leaves(space):
        rule = f"key {leaf.name!r} of {name} is {leaf.space}"
        found.append(_limits_of_leaf(leaf.space, rule)._replace(leaf=leaf))
    return found


def _limits_of_leaf(space: spaces.Space[Any], rule: str) -> Limits:
    if isinstance(space, spaces.Discrete):
        return Limits(int(space.start), int(space.start + space.n - 1), rule)
    if isinstance(space, spaces.MultiDiscrete):
        return _simplest(np.zeros_like(space.nvec), space.nvec - 1, rule)
    assert isinstance(space, spaces.Box)
    least, largest = finite_range(space.low.dtype)
    return _simplest(np.maximum(space.low, least), np.minimum(space.high, largest), rule)


def _simplest(low: np.ndarray, high: np.ndarray, rule: str) -> Limits:
    """Limits as one number each where they are the same everywhere: far quicker to check."""
    if low.size > 0 and (low == low.flat[0]).all() and (high == high.flat[0]).all():
        return Limits(low.flat[0].item(), high.flat[0].item(), rule)
    return Limits(low, high, rule)


def spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` of the numbers 0 to count - 1, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))


def _reading_limits(info: DatasetInfo) -> dict[str, list[Limits]]:
    """By column, what a reader insists on; older writers took observations outside of a box."""
    found = {name: limits_of(name, info) for name in columns(info)}
    space = info.observation_space
    if isinstance(space, spaces.Box):
        is_float = np.issubdtype(space.low.dtype, np.floating)
        limits = Limits(*finite_range(space.low.dtype), "observations must be finite")
        found["observation"] = [limits] if is_float else []
    return found


def _check_run(
    dataset: "HistoryDataset", limits: dict[str, list[Limits]], history: int, start: int, stop: int
) -> None:
    shard, row = dataset.locate(history)
    steps = dataset.read(history, start, stop)
    distribution = dataset.info.actions

    def refuse(name: str, values: np.ndarray, is_wrong: np.ndarray, rule: str) -> None:
        if is_wrong.any():
            index = int(np.argmax(is_wrong))
            raise UserError(
                f"{shard / stem(dataset.info, name)}.npy: {name}[{row}, {start + index}] is "
                f"{values[index].tolist()}; {rule}; {rerun(shard)}"
            )

    for name, parts in limits.items():
        for allowed in parts:
            values = allowed.part(steps[name])
            is_wrong = _find_wrong(values, allowed, distribution if name in POLICIES else None)
            refuse(name, values, is_wrong, allowed.rule)
    if dataset.info.fixed_length:
        length = dataset.info.episode_length
        is_last = np.arange(start + 1, stop + 1) % length == 0
        is_wrong = (steps["terminated"] | steps["truncated"]) != is_last
        rule = f"every episode must end after episode_length={length} steps, and only then"
        refuse("truncated", steps["truncated"], is_wrong, rule)


def _find_wrong(
    values: np.ndarray, limits: Limits, distribution: ActionDistribution | None
) -> np.ndarray:
    """Mark the steps whose values break a rule, (steps,) bool."""
    is_right = (values >= limits.low) & (values <= limits.high)
    is_wrong: np.ndarray = ~is_right.reshape(len(values), -1).all(-1)
    if distribution is not None:
        is_wrong |= ~(distribution.defect(values) < POLICY_TOLERANCE)
    return is_wrong
