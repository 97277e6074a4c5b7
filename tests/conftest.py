"""A dataset fabricated step by step, so that every number says where it comes from."""

import os
import signal
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.acting.interact import Transition
from fastad.envs.registry import ENVS
from fastad.histories.meta import shard_range
from fastad.histories.schema import DatasetInfo
from fastad.histories.writer import ShardWriter, create_dataset

NUM_ACTIONS = 5
STATE = tempfile.TemporaryDirectory(prefix="fastad-state-")  # gone when the tests end
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


# Few examples, always the same ones, where nobody asks for more: HYPOTHESIS_PROFILE=thorough.
AS_THE_MACHINE_IS = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile(
    "ci", max_examples=12, derandomize=True, database=None, **AS_THE_MACHINE_IS
)
hypothesis.settings.register_profile("thorough", max_examples=1000, **AS_THE_MACHINE_IS)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure() -> None:
    """Interpret Triton where there is no GPU, and obey the signals that fastad obeys.

    Triton reads the variable when it is imported, which much of PyTorch does. fastad leaves
    signals ignored that whoever started the tests ignores, as `nohup` and background jobs do, and
    processes inherit it: nothing would stop then.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # What tests collect is nothing that the user asked for.
    os.environ["XDG_STATE_HOME"] = STATE.name
    for number in (getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)):
        if signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what names the C++ kernels where they cannot be compiled, whichever file it is in."""
    from fastad_kernels import native  # not above: see pytest_configure

    named = [item for item in items if "native" in _implementations(item)]
    reason = native.why_unavailable() if named else None
    if reason is not None:
        for item in named:
            item.add_marker(pytest.mark.skip(reason=reason))


def _implementations(item: pytest.Item) -> list[object]:
    """What a test is given as an implementation, by the names that parameters have for it."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return [value for name, value in params.items() if name in ("impl", "kernels")]


def build_info(**changes: Any) -> DatasetInfo:
    """Six histories of twelve steps, three episodes of four, in two shards."""
    values: dict[str, Any] = {
        "env": "dark-room",
        "env_kwargs": {"size": 11},
        "observation_space": spaces.MultiDiscrete([9, 9]),
        "action_space": spaces.Discrete(NUM_ACTIONS),
        "source": "explore",
        "source_kwargs": {},
        "source_knows": "",
        "action_noise": 0.0,
        "num_train": 4,
        "num_test": 2,
        "holdout": "random",
        "seed": 0,
        "num_histories": 6,
        "num_steps": 12,
        "num_shards": 2,
        "episode_length": 4,
        "fixed_length": True,
        "versions": {"fastad": "0"},
    }
    return DatasetInfo(**(values | changes))


def build_block(
    info: DatasetInfo, histories: range, steps: range, episode_lengths: list[int] | None
) -> Transition:
    """History h at step t: observation (h % 9, t % 9), action (h + t) % 5, reward 1000 h + t."""
    history, step = np.array(histories)[:, None], np.array(steps)[None, :]
    if episode_lengths is None:
        ends = (step + 1) % info.episode_length == 0
    else:
        ends = np.isin(step + 1, np.cumsum(episode_lengths))
    ends = np.broadcast_to(ends, (len(histories), len(steps)))
    action = (history + step) % NUM_ACTIONS
    probs = np.where(np.arange(NUM_ACTIONS) == action[..., None], 0.6, 0.1)
    observation = np.stack(np.broadcast_arrays(history % 9, step % 9), axis=-1)
    return Transition(
        torch.from_numpy(observation),
        torch.from_numpy(action),
        torch.from_numpy((1000.0 * history + step).astype(np.float32)),
        torch.zeros(ends.shape, dtype=torch.bool),
        torch.from_numpy(ends.copy()),
        torch.from_numpy(probs.astype(np.float32)),
    )


def build_dataset(
    path: Path,
    *,
    episode_lengths: list[int] | None = None,
    committed: list[int] | None = None,
    task_ids: list[int] | None = None,
    **changes: Any,
) -> DatasetInfo:
    """Write the fabricated dataset: history h is of task `task_ids[h]`, by default h.

    Args:
        path: Where.
        episode_lengths: Of every history, where episodes vary in length.
        committed: Steps per shard; all of them by default.
        task_ids: One per history.
        **changes: To the fields of the info.
    """
    if episode_lengths is not None:
        changes = {"fixed_length": False, "episode_length": max(episode_lengths)} | changes
    info = build_info(**changes)
    tasks = np.arange(2 * info.num_tasks).reshape(-1, 2)
    create_dataset(path, info, tasks)
    for index in range(info.num_shards):
        histories = shard_range(info, index)
        ids = [h % info.num_tasks if task_ids is None else task_ids[h] for h in histories]
        stop = info.num_steps if committed is None else committed[index]
        with ShardWriter(path, info, index, task_ids=ids, learner_ids=list(histories)) as writer:
            for first in range(0, stop, 5):
                steps = range(first, min(first + 5, stop))
                writer.append(build_block(info, histories, steps, episode_lengths))
    return info


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment and the source that tests add, each in one file."""
    from fastad.sources.registry import SOURCES

    for folder in ("envs", "sources"):
        monkeypatch.syspath_prepend(Path(__file__).parent / folder)
    monkeypatch.setitem(ENVS, "combination-lock", "combination_lock:CombinationLock")
    monkeypatch.setitem(SOURCES, "win-stay", import_module("win_stay").WinStay)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., DatasetInfo]:
    return build_dataset


@pytest.fixture(scope="session")
def make_info() -> Callable[..., DatasetInfo]:
    return build_info


@pytest.fixture(scope="session")
def make_block() -> Callable[..., Transition]:
    return build_block
