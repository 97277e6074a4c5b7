"""How many training windows per second come off the disk?

512 histories of a Dark Room actor-critic, observations, actions and rewards; batches of 32 windows
from anywhere in them. fastad: `WindowSampler.batch`, which also draws the windows, shifts actions
and rewards and numbers the steps of episodes. HDF5: the windows alone, from a file with one
gzip-compressed row per history, as public code for Algorithm Distillation stores them, read in two
ways: the whole row, of which the window is cut, and the window alone, from rows that are compressed
in chunks as long as a window.

All files are in the page cache, on all sides: what is compared is the reading, not the disk. HDF5
keeps 1 MiB of each column decompressed; with more, it would hold much of data as small as these.
Checked before timing: the same windows come from all three.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from benchmarks.harness import Measure
from benchmarks.peers.hdf5 import Hdf5Histories
from fastad.histories.jobs import collect_shards, prepare
from fastad.histories.reader import HistoryDataset
from fastad.histories.schema import TASKS_FILE
from fastad.histories.writer import create_dataset
from fastad.methods.base import Batch
from fastad.methods.windows import WindowSampler

BATCH_SIZE = 32
EPISODE_LENGTH = 20
NUM_DRAWN = 256  # batches that HDF5 reads, drawn before the clock runs

SIDES = ("fastad", "gzip HDF5, whole row", "gzip HDF5, window alone")


class Case(NamedTuple):
    """How long histories and windows are, in steps."""

    num_histories: int
    history: int
    window: int

    def __str__(self) -> str:
        return f"windows of {self.window} steps from histories of {self.history:,}"


CASES = (Case(512, 2000, 200), Case(512, 5000, 400), Case(512, 10_000, 400))
QUICK = (Case(16, 200, 40),)


@pytest.fixture(scope="module")
def open_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], HistoryDataset]:
    """One dataset per case, for all its sides."""
    folder = tmp_path_factory.mktemp("loader")

    def open_dataset(case: Case) -> HistoryDataset:
        out, draft = folder / str(case), folder / "draft"
        if not out.exists():
            with prepare(
                draft,
                env="dark-room",
                source="actor-critic",
                num_histories=case.num_histories,
                num_episodes=case.history // EPISODE_LENGTH,
                num_test=16,
                overwrite=True,
            ) as described:
                # Public datasets hold no action distributions.
                info = replace(described, policies=[])
                create_dataset(out, info, np.load(draft / TASKS_FILE))
            collect_shards(out, info)
        return HistoryDataset(out)

    return open_dataset


def test_loader(
    measure: Measure,
    case: Case,
    side: str,
    open_dataset: Callable[[Case], HistoryDataset],
    tmp_path: Path,
) -> None:
    dataset = open_dataset(case)
    sampler = WindowSampler(
        dataset, num_steps=case.window, batch_size=BATCH_SIZE, seed=0, start="anywhere"
    )
    drawn = [_where(sampler, step) for step in range(NUM_DRAWN)]
    if side == "fastad":
        reference = Plain(dataset)
        read: Callable[[int], Any] = sampler.batch
    else:
        whole = "whole" in side
        reference = Hdf5Histories(
            tmp_path / "histories.h5",
            dataset,
            chunk_steps=None if whole else case.window,
            whole_rows=whole,
        )

        def read(step: int) -> Any:
            return reference.windows(*drawn[step % NUM_DRAWN], case.window)

    pairs = [
        (sampler.batch(step), reference.windows(*drawn[step], case.window)) for step in range(5)
    ]
    measure.gate(max(_difference(*pair) for pair in pairs), tolerance=0)
    steps = count()
    measure.rate(lambda: read(next(steps)), work=BATCH_SIZE, unit="windows/s")


class Plain(NamedTuple):
    """Windows from the plainest reader there is, one by one."""

    dataset: HistoryDataset

    def windows(
        self, histories: np.ndarray, first: np.ndarray, num_steps: int
    ) -> tuple[torch.Tensor, ...]:
        """As `Hdf5Histories.windows`, in the types that are stored."""
        pairs = zip(histories, first, strict=True)
        parts = [self.dataset.read(history, step, step + num_steps) for history, step in pairs]
        names = ("observation", "action", "reward")
        return tuple(torch.from_numpy(np.stack([part[name] for part in parts])) for name in names)


def _where(sampler: WindowSampler, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The histories and first steps of a batch: drawn ahead, the peer need not draw."""
    shown = sampler._mine(step)
    return shown.histories, shown.steps[:, 0]


def _difference(batch: Batch, windows: tuple[torch.Tensor, ...]) -> float:
    """Largest difference; rewards are shown one step late, and the last one not at all."""
    observations, actions, rewards = windows
    pairs = (
        (batch.steps.observation, observations),
        (batch.targets["action"], actions),
        (batch.steps.previous_reward[:, 1:], rewards[:, :-1]),
    )
    return max((shown - expected).abs().max().item() for shown, expected in pairs)
