"""XLand-100B's HDF5 files (Nikulin et al. 2024, arXiv 2406.08973), read where they lie.

A group "0", "1", ... for each task, with the attributes env-id, benchmark-id and ruleset-id, and
of N histories of T steps each: states (N, T, rows, columns) uint8, a tile's kind times 12 plus its
colour; actions (N, T) uint8; rewards (N, T) float16; dones (N, T) bool; and expert_actions, what
the policy of the history's end would have done. Compressed in chunks of one history's 4,096 steps.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.base.extras import import_extra
from fastad.histories.bounds import find_bounds
from fastad.histories.formats.hdf5 import check_heaps, member
from fastad.histories.histories import Histories
from fastad.histories.schema import DatasetInfo
from fastad.histories.validate import spread

SUFFIXES = (".hdf5", ".h5")
COLUMNS = ("states", "actions", "rewards", "dones")
EXPERT = "expert_actions"
NUM_TILES, NUM_COLORS, NUM_ACTIONS = 13, 12, 6
OPEN_GROUPS, CHUNK_BYTES = 64, 2**20  # kept at once, and of each of their columns
KEPT_BOUNDS = 2**12  # histories whose episodes are remembered
SAMPLED = 16  # histories that tell how long episodes are
MOST_TEST_TASKS = 128
WHAT_FOR = "download it again, or see docs/formats.md for the layout"
# What the learners of the published files were given besides; see their training/train.py.
KNOWS = "the rules and the goal of its task; it was trained on other tasks before"


def is_hdf5(path: str | Path) -> bool:
    """Whether a path is called as an HDF5 file is, and no folder."""
    return Path(path).suffix.lower() in SUFFIXES and not Path(path).is_dir()


class XLandHistories(Histories):
    """Histories of an HDF5 file in XLand-100B's layout.

    Nothing is read but what is asked for. A tenth of the tasks, at most 128, is held out, always
    the same ones. Observations are (rows, columns, 2), a tile's kind and its colour. As the file
    has one flag for an episode's end, it counts as terminated. The expert's actions are the
    column final_policy, all probability on the one that it took.

    Args:
        path: The file.

    Raises:
        UserError: If it is no such file, cut short or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._where = f"dataset {self.path}"
        h5py = import_extra("h5py", "hdf5", f"{self.path}, an HDF5 file,")
        if not self.path.is_file():
            raise UserError(f"{self._where} does not exist; name an .hdf5 file")
        check_heaps(self.path, self._where)
        with self._refusing("is no HDF5 file, or cut short"):
            self._file = h5py.File(self.path, "r", rdcc_nbytes=CHUNK_BYTES)
        self._groups: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._bounds: OrderedDict[int, np.ndarray] = OrderedDict()
        self._digest = ""
        self.num_shards_complete = 1
        with self._refusing("is damaged"):
            rulesets, attributes = self._read_rulesets()
            self._has_expert = member(self._of(0), EXPERT, self._where) is not None
            self._per_group, num_steps, *grid = self._group(0)["states"].shape
        order = np.random.Generator(np.random.Philox(0)).permutation(len(rulesets))
        self.tasks = rulesets[order][:, None]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.task_ids = np.repeat(place, self._per_group)
        self.learner_ids = np.tile(np.arange(self._per_group), len(rulesets)).tolist()
        self.lengths = np.full(len(self.task_ids), num_steps, np.int64)
        longest = max(
            int(np.diff(self.episode_bounds(int(history))).max())
            for history in spread(len(self.task_ids), SAMPLED)
        )
        num_test = min(MOST_TEST_TASKS, -(-len(rulesets) // 10)) if len(rulesets) > 1 else 0
        self.info = DatasetInfo(
            env=str(attributes["env-id"]).replace(":", "-"),
            env_kwargs={"benchmark": str(attributes["benchmark-id"]), "task": "ruleset_id"},
            observation_space=symbols(grid),
            action_space=spaces.Discrete(NUM_ACTIONS),
            source="xland",
            source_kwargs={},
            source_knows=KNOWS if str(attributes["env-id"]).startswith("XLand") else "",
            action_noise=0.0,
            num_train=len(rulesets) - num_test,
            num_test=num_test,
            holdout="task",
            seed=0,
            num_histories=len(self.task_ids),
            num_steps=num_steps,
            num_shards=1,
            episode_length=longest,
            fixed_length=False,
            policies=["final_policy"] if self._has_expert else [],
        )
        for history in spread(self.num_histories, SAMPLED):
            self.read(int(history), 0, min(num_steps, 256))  # values that are refused, now

    @property
    def unfinished(self) -> list[str]:
        """See `Histories.unfinished`: such a file is always whole."""
        return []

    def fingerprint(self) -> str:
        """See `Histories.fingerprint`: of the file's size, and what its first and last MiB hold."""
        if not self._digest:
            size, total = self.path.stat().st_size, hashlib.sha256(self.tasks.tobytes())
            with self.path.open("rb") as stream:
                total.update(stream.read(2**20))
                stream.seek(max(0, size - 2**20))
                total.update(stream.read() + str(size).encode())
            self._digest = total.hexdigest()[:12]
        return self._digest

    def read(self, history: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """See `Histories.read`; a copy."""
        if not 0 <= history < self.num_histories:
            raise IndexError(f"history={history} must lie in [0, {self.num_histories})")
        if not 0 <= start <= stop <= self.lengths[history]:
            raise IndexError(
                f"steps [{start}, {stop}) leave history {history} of {self.lengths[history]} steps"
            )
        names = ("observation", "action", "reward", "terminated", "truncated", *self.info.policies)
        return {name: self._column(name, history, start, stop) for name in names}

    def gather(self, histories: np.ndarray, steps: np.ndarray, into: dict[str, np.ndarray]) -> None:
        """See `Histories.gather`; what lies between the steps of one history is read as well."""
        if (histories < 0).any() or (histories >= self.num_histories).any():
            raise IndexError(f"histories must lie in [0, {self.num_histories})")
        if (steps[:, 0] < 0).any() or (steps[:, -1] >= self.lengths[histories]).any():
            raise IndexError("steps leave their histories")
        for history in np.unique(histories):
            rows = np.flatnonzero(histories == history)
            start, stop = int(steps[rows, 0].min()), int(steps[rows, -1].max()) + 1
            for name, array in into.items():
                values = self._column(name, int(history), start, stop)
                array[rows] = values[steps[rows] - start]

    def episode_bounds(self, history: int) -> np.ndarray:
        """See `Histories.episode_bounds`; found by a scan, of late ones remembered."""
        if history in self._bounds:
            self._bounds.move_to_end(history)
        else:
            ended = self._stored("dones", history, 0, int(self.lengths[history]))
            self._bounds[history] = find_bounds(ended.astype(bool))
            if len(self._bounds) > KEPT_BOUNDS:
                self._bounds.popitem(last=False)
        return self._bounds[history]

    def _column(self, name: str, history: int, start: int, stop: int) -> np.ndarray:
        """Steps of one of fastad's columns."""
        if name == "truncated":
            return np.zeros(stop - start, np.bool_)
        stored = {
            "observation": "states", "action": "actions", "reward": "rewards",
            "terminated": "dones", "final_policy": EXPERT,
        }  # fmt: skip
        values = self._stored(stored[name], history, start, stop)
        if name == "observation":
            self._check(values.max(initial=0) < NUM_TILES * NUM_COLORS, "states", history, "tiles")
            return np.stack(np.divmod(values, np.uint8(NUM_COLORS)), axis=-1)
        if name == "reward":
            self._check(bool(np.isfinite(values).all()), "rewards", history, "finite numbers")
            return values.astype(np.float32)
        if name == "terminated":
            return values.astype(np.bool_)
        what = f"actions, 0 to {NUM_ACTIONS - 1}"
        self._check(values.max(initial=0) < NUM_ACTIONS, stored[name], history, what)
        return values if name == "action" else np.eye(NUM_ACTIONS, dtype=np.float16)[values]

    def _check(self, is_right: bool, name: str, history: int, what: str) -> None:
        if not is_right:
            group = history // self._per_group
            raise UserError(f"{self._where}: {group}/{name} holds values that are no {what}")

    def _stored(self, name: str, history: int, start: int, stop: int) -> np.ndarray:
        """Steps of one of the file's columns."""
        group, row = divmod(history, self._per_group)
        with self._refusing(f"is damaged in {group}/{name}"):
            values: np.ndarray = self._group(group)[name][row, start:stop]
        return values

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Say in one line what HDF5's own library stumbles over."""
        try:
            yield
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self._where} {what} ({_reason(error)}); {WHAT_FOR}") from error

    def _group(self, index: int) -> dict[str, Any]:
        """The columns of one task, of which some are kept open."""
        if index in self._groups:
            self._groups.move_to_end(index)
            return self._groups[index]
        opened = self._opened(index)
        first = self._groups.get(0) or opened
        for name, column in opened.items():
            if column.shape != first[name].shape:
                raise UserError(
                    f"{self._where}: {index}/{name} has shape {column.shape}, and 0/{name} "
                    f"{first[name].shape}; {WHAT_FOR}"
                )
        self._groups[index] = opened
        if len(self._groups) > OPEN_GROUPS:
            # The first one stays: all others are held to it.
            del self._groups[next(key for key in self._groups if key != 0)]
        return opened

    def _opened(self, index: int) -> dict[str, Any]:
        group = self._of(index)
        names = [*COLUMNS, *([EXPERT] if self._has_expert else [])]
        found: dict[str, Any] = {}
        for name in names:
            found[name] = member(group, name, self._where)
        for name, column in found.items():
            kinds = {"rewards": "f", "dones": "biu"}.get(name, "u")
            rank = 4 if name == "states" else 2
            shape = getattr(column, "shape", None)
            if shape is None or len(shape) != rank or column.dtype.kind not in kinds:
                raise UserError(
                    f"{self._where}: {index}/{name} is missing or of another kind than "
                    f"XLand-100B's; {WHAT_FOR}"
                )
            if shape[:2] != found["states"].shape[:2] or 0 in shape:
                raise UserError(
                    f"{self._where}: {index}/{name} has shape {shape}, which does not fit "
                    f"states, {found['states'].shape}; {WHAT_FOR}"
                )
        return found

    def _of(self, index: int) -> Any:
        """The group of a task."""
        group = member(self._file, str(index), self._where)
        if not hasattr(group, "keys"):
            raise UserError(f"{self._where}: {index} is no group; {WHAT_FOR}")
        return group

    def _read_rulesets(self) -> tuple[np.ndarray, dict[str, Any]]:
        """The ruleset of every group, and the attributes of the first."""
        names = set(self._file)
        wanted = [str(index) for index in range(len(names))]
        if not names or names != set(wanted):
            shown = ", ".join(sorted(names)[:3]) or "nothing"
            raise UserError(
                f"{self._where} holds {shown}, and a file of XLand-100B the groups 0, 1, 2 and so "
                f"on; {WHAT_FOR}"
            )
        first: dict[str, Any] = {}
        rulesets = np.empty(len(wanted), np.int64)
        for index, name in enumerate(wanted):
            told = self._of(index).attrs
            for key in ("env-id", "benchmark-id", "ruleset-id"):
                if key not in told:
                    raise UserError(f"{self._where}: group {name} lacks {key}; {WHAT_FOR}")
                if key != "ruleset-id" and not isinstance(told[key], str):
                    raise UserError(f"{self._where}: {key} of group {name} is no text; {WHAT_FOR}")
            first = first or {key: told[key] for key in ("env-id", "benchmark-id")}
            for key, value in first.items():
                if told[key] != value:
                    raise UserError(
                        f"{self._where}: group {name} is of {key} {told[key]!r}, and group 0 of "
                        f"{value!r}; one file is of one environment: split it"
                    )
            try:
                rulesets[index] = told["ruleset-id"]
            except (TypeError, ValueError, OverflowError) as error:
                raise UserError(
                    f"{self._where}: ruleset-id of group {name} is no number; {WHAT_FOR}"
                ) from error
        twice = len(rulesets) - len(np.unique(rulesets))
        if twice:
            raise UserError(
                f"{self._where}: {twice} groups repeat the ruleset of another, so a task could be "
                "learned and tried as unseen; have each once"
            )
        return rulesets, first


def symbols(grid: Any) -> spaces.MultiDiscrete:
    """Of what a file's states are: kind and colour of every cell, (rows, columns, 2)."""
    return spaces.MultiDiscrete(np.tile([NUM_TILES, NUM_COLORS], (*grid, 1)))


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
