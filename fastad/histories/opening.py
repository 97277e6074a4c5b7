"""Learning histories by their place, whatever they are stored as."""

import io
import json
from pathlib import Path

import numpy as np

from fastad.base.files import as_json
from fastad.histories.formats.xland import XLandHistories, is_hdf5
from fastad.histories.histories import Histories
from fastad.histories.reader import HistoryDataset, load_description
from fastad.histories.schema import INFO_FILE, TASKS_FILE, DatasetInfo


def open_histories(path: str | Path) -> Histories:
    """The histories of a dataset's folder, or of an HDF5 file in XLand-100B's layout.

    Raises:
        UserError: If there are none, or they are damaged.
    """
    return XLandHistories(path) if is_hdf5(path) else HistoryDataset(path)


def description_of(path: str | Path) -> tuple[DatasetInfo, np.ndarray]:
    """See `load_description`."""
    if not is_hdf5(path):
        return load_description(path)
    histories = XLandHistories(path)
    return histories.info, histories.tasks


def description_files(path: Path) -> dict[str, bytes]:
    """The files by which a run keeps what its dataset is, by name."""
    if not is_hdf5(path):
        return {name: (path / name).read_bytes() for name in (INFO_FILE, TASKS_FILE)}
    info, tasks = description_of(path)
    content = io.BytesIO()
    np.lib.format.write_array(content, tasks, allow_pickle=False)
    described = json.dumps(as_json(info.to_json()), indent=2).encode()
    return {INFO_FILE: described, TASKS_FILE: content.getvalue()}
