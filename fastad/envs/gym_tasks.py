"""How the tasks of an environment from outside differ: listed arguments, ranges, or seeds."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from fastad.base.config import parse_yaml
from fastad.base.errors import UserError, os_reason
from fastad.envs.family import SPLITS, Split

SEEDS = "seeds"
FORMS = (
    "tasks must be a list of arguments, [{...}, {...}], ranges {name: [low, high]}, the word "
    "seeds, or a .yaml or .json file with a list or ranges"
)
MAX_LISTED = 2**16  # combinations of whole numbers that are listed instead of drawn
MAX_TRIED = 32  # tasks that are made before a collection begins, of those that are listed
MAX_SEED = 2**31
MAX_FILE = 2**24
MIXING = ((30, -4658895280553007687), (27, -7723592293110705685))


class Distribution(ABC):
    """What tells the tasks apart, a row of numbers each."""

    def check(self, where: str) -> None:  # noqa: B027, tasks that are drawn are all different
        """Refuse tasks that are not told apart, before a collection begins."""

    def rows(self) -> Tensor | None:
        """Every task, (M, K); None if they are drawn."""
        return None

    def sample(self, num_tasks: int, split: Split, generator: Generator) -> Tensor:
        """Draw tasks (num_tasks, K); those of one split are never those of another."""
        raise TypeError("tasks are listed")

    def few(self) -> Tensor:
        """Some tasks (M, K) of which others are likely to be possible if they are."""
        rows = self.rows()
        if rows is None:
            drawn = [self.sample(1, split, Generator().manual_seed(0)) for split in SPLITS]
            return torch.cat(drawn)
        return rows[torch.linspace(0, len(rows) - 1, min(len(rows), MAX_TRIED)).round().long()]

    @abstractmethod
    def arguments(self, row: Tensor) -> dict[str, Any]:
        """What the environment of a task (K,) is made with."""

    def seed(self, row: Tensor) -> int | None:
        """What every reset of a task is seeded with; None: the first alone, from a generator."""
        return None


class Listed(Distribution):
    """A task is the number of its arguments in a list."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self.entries = entries

    def check(self, where: str) -> None:
        """See `Distribution.check`: listed twice, a task could be learned and tried as unseen."""
        first: dict[str, int] = {}
        for index, entry in enumerate(self.entries):
            known = first.setdefault(repr(sorted(entry.items())), index)
            if known != index:
                raise UserError(
                    f"{where}: tasks[{index}]={entry!r} is tasks[{known}] again; list every task "
                    "once"
                )

    def rows(self) -> Tensor:
        """See `Distribution.rows`; (M, 1) int64."""
        return torch.arange(len(self.entries))[:, None]

    def arguments(self, row: Tensor) -> dict[str, Any]:
        """See `Distribution.arguments`."""
        index = int(row[0])
        if not 0 <= index < len(self.entries):
            raise UserError(f"task {index} is none of the {len(self.entries)} that are listed")
        return self.entries[index]


class Ranges(Distribution):
    """A task is a number from each range: whole where both ends are, both included.

    Whole numbers of few enough combinations are listed.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges
        self._whole = [all(isinstance(end, int) for end in ends) for ends in ranges.values()]
        self._low = torch.tensor([low for low, _ in ranges.values()], dtype=torch.float64)
        self._high = torch.tensor([high for _, high in ranges.values()], dtype=torch.float64)
        self._dtype = torch.int64 if all(self._whole) else torch.float64

    def rows(self) -> Tensor | None:
        """See `Distribution.rows`; (M, K) int64."""
        sizes = [high - low + 1 for low, high in self.ranges.values()]
        if not all(self._whole) or math.prod(sizes) > MAX_LISTED:
            return None
        each = [range(int(low), int(high) + 1) for low, high in self.ranges.values()]
        return torch.tensor(list(product(*each)))

    def sample(self, num_tasks: int, split: Split, generator: Generator) -> Tensor:
        """See `Distribution.sample`; (num_tasks, K) float64, or int64 if all are whole."""
        is_whole = torch.tensor(self._whole)
        found: list[Tensor] = []
        while sum(map(len, found)) < num_tasks:
            shape = (max(64, 4 * num_tasks), len(self._whole))
            part = torch.rand(shape, generator=generator, dtype=torch.float64)
            values = self._low + part * (self._high - self._low + is_whole.double())
            values = torch.where(is_whole, values.floor().minimum(self._high), values)
            # Fractions are never drawn twice; whole numbers belong to one split each.
            found.append(values[_split_of(values) == SPLITS.index(split)])
        return torch.cat(found)[:num_tasks].to(self._dtype)

    def few(self) -> Tensor:
        """See `Distribution.few`: both ends of all ranges at once as well."""
        ends = torch.stack([self._low, self._high]).to(self._dtype)
        return torch.cat([super().few(), ends])

    def arguments(self, row: Tensor) -> dict[str, Any]:
        """See `Distribution.arguments`."""
        numbers = zip(self.ranges, self._whole, row.tolist(), strict=True)
        return {name: int(value) if whole else float(value) for name, whole, value in numbers}


class Seeds(Distribution):
    """A task is the seed of every reset: the same world, and the same chances, in every episode."""

    def sample(self, num_tasks: int, split: Split, generator: Generator) -> Tensor:
        """See `Distribution.sample`; (num_tasks, 1) int64, each split from a third of all seeds."""
        drawn = torch.randint(MAX_SEED // len(SPLITS), (num_tasks, 1), generator=generator)
        return drawn * len(SPLITS) + SPLITS.index(split)

    def arguments(self, row: Tensor) -> dict[str, Any]:
        """See `Distribution.arguments`: the same for all."""
        return {}

    def seed(self, row: Tensor) -> int:
        """See `Distribution.seed`."""
        return int(row[0])


def read_in(tasks: Any, where: str) -> Any:
    """The content of the file that `tasks` names, or `tasks`, where it names none.

    Raises:
        UserError: If there is no such file, or it is damaged.
    """
    if not isinstance(tasks, str) or tasks == SEEDS:
        return tasks
    path, field = Path(tasks), f"{where}: tasks={tasks}"
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise UserError(f"{field} is not possible; {FORMS}")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise UserError(f"{field} cannot be read: {os_reason(error)}") from error
    if path.suffix != ".json":
        return parse_yaml(content, field)
    if len(content) > MAX_FILE:
        raise UserError(f"{field} is longer than {MAX_FILE:,} bytes; list fewer tasks")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{field} is not JSON: {error}") from error


def distribution_of(tasks: Any, where: str) -> Distribution:
    """The distribution that plain values describe, as `read_in` gives them.

    Args:
        tasks: A list of dicts, a dict of ranges, or "seeds"; None for one task.
        where: Names the environment in errors.

    Raises:
        UserError: If they describe none.
    """
    if tasks is None:
        return Listed([{}])
    if tasks == SEEDS:
        return Seeds()
    if isinstance(tasks, list | tuple) and tasks:
        for index, entry in enumerate(tasks):
            if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
                raise UserError(
                    f"{where}: tasks[{index}]={entry!r} must be arguments by name, such as "
                    "{size: 8}"
                )
        return Listed([dict(entry) for entry in tasks])
    if isinstance(tasks, dict) and tasks:
        return Ranges({name: _range(name, ends, where) for name, ends in tasks.items()})
    raise UserError(f"{where}: tasks={tasks!r} is not possible; {FORMS}")


def _range(name: Any, ends: Any, where: str) -> tuple[float, float]:
    is_pair = isinstance(ends, list | tuple) and len(ends) == 2
    numbers = is_pair and all(type(end) in (int, float) and abs(end) < 2**53 for end in ends)
    if not isinstance(name, str) or not numbers or not ends[0] < ends[1]:
        raise UserError(
            f"{where}: tasks: {name}={ends!r} must be [low, high], two numbers, the first one "
            "smaller; what is the same in every task is an option of its own, such as gravity=9.8"
        )
    return ends[0], ends[1]


def _split_of(values: Tensor) -> Tensor:
    """A number below 3 that follows from the values of each row (n, K), as if drawn; (n,)."""
    key = torch.zeros(len(values), dtype=torch.int64)
    for column in values.unbind(1):
        # As splitmix64 mixes: every bit of a number comes to bear on the ones taken below.
        key = key + column.view(torch.int64)
        for shift, factor in MIXING:
            key = (key ^ (key >> shift & 2 ** (64 - shift) - 1)) * factor
    return (key >> 33 & 2**31 - 1) % len(SPLITS)
