"""Histories in gzip HDF5, as public code for Algorithm Distillation stores and reads them."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import peer
from fastad.histories.reader import HistoryDataset

COLUMNS = ("observation", "action", "reward")  # what such files hold
# Of decompressed chunks, per column: HDF5's default before version 2, which has 8 MiB.
CACHE_BYTES = 2**20


class Hdf5Histories:
    """One row per history and column, compressed with gzip at its default level.

    Args:
        file: To write.
        dataset: What to write, in its own dtypes.
        chunk_steps: Steps that are compressed together; None takes the whole row.
        whole_rows: Whether to read a history's whole row and cut the window out of it, or to
            ask HDF5 for the window alone.
    """

    def __init__(
        self, file: Path, dataset: HistoryDataset, *, chunk_steps: int | None, whole_rows: bool
    ) -> None:
        h5py = peer("h5py")
        self.whole_rows = whole_rows
        rows = [dataset.read(h, 0, dataset.num_steps) for h in range(dataset.num_histories)]
        with h5py.File(file, "w") as target:
            for name in COLUMNS:
                values = np.stack([row[name] for row in rows])
                chunk = (1, chunk_steps or values.shape[1], *values.shape[2:])
                target.create_dataset(name, data=values, chunks=chunk, compression="gzip")
        source = h5py.File(file, "r", rdcc_nbytes=CACHE_BYTES)
        self.columns = {name: source[name] for name in COLUMNS}

    def windows(
        self, histories: np.ndarray, first: np.ndarray, num_steps: int
    ) -> tuple[torch.Tensor, ...]:
        """Observations (B, T, 2) and actions (B, T), int64, and rewards (B, T), float32.

        Args:
            histories: (B,).
            first: (B,), the step that each window begins with.
            num_steps: `T`.
        """
        stacked = []
        for column in self.columns.values():
            pairs = zip(histories, first, strict=True)
            if self.whole_rows:
                parts = [column[history][step : step + num_steps] for history, step in pairs]
            else:
                parts = [column[history, step : step + num_steps] for history, step in pairs]
            stacked.append(torch.from_numpy(np.stack(parts)))
        observations, actions, rewards = stacked
        return observations.long(), actions.long(), rewards
