"""Histories to and from pandas: one row per step."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastad.base.errors import UserError
from fastad.base.extras import import_extra
from fastad.base.progress import Report, unwatched
from fastad.histories.formats.described import KEY, describe, restored
from fastad.histories.formats.rows import (
    INDEX,
    Quantity,
    quantities,
    read_rows,
    with_histories,
    write_rows,
)
from fastad.histories.histories import Histories
from fastad.histories.reader import HistoryDataset

if TYPE_CHECKING:
    import pandas

MOST_COLUMNS = 64  # of one vector; what is longer is an array in each row


def to_frame(dataset: Histories, histories: Sequence[int] | None = None) -> "pandas.DataFrame":
    """See `HistoryDataset.to_pandas`."""
    pandas = import_extra("pandas", "pandas", "to_pandas")
    chosen = range(dataset.num_histories) if histories is None else histories
    parts = [read_rows(dataset, int(h), 0, int(dataset.lengths[h])) for h in chosen]
    if not parts:
        raise UserError("histories is empty; name at least one")
    data: dict[str, Any] = {n: np.concatenate([part[n] for part in parts]) for n in INDEX}
    for kind in quantities(dataset.info):
        values = np.concatenate([part[kind.name] for part in parts])
        names = _names(kind)
        if kind.shape == ():
            data[kind.name] = values
        elif len(names) == 1:
            data[kind.name] = pandas.Series(list(values), dtype=object)
        else:
            flat = values.reshape(len(values), -1)
            data |= {name: flat[:, i] for i, name in enumerate(names)}
    frame = pandas.DataFrame(data)
    frame.attrs[KEY] = describe(dataset)
    return frame


def from_pandas(
    frame: "pandas.DataFrame",
    path: str | Path,
    *,
    like: Histories | None = None,
    overwrite: bool = False,
    progress: Report = unwatched,
) -> HistoryDataset:
    """Write the dataset that a table of `HistoryDataset.to_pandas` is of.

    Histories may have been left out, and values changed; every other row stays where it is.

    >>> import fastad
    >>> table = fastad.HistoryDataset("data/room").to_pandas()
    >>> again = fastad.histories.from_pandas(table[table["history"] < 12], "data/dozen")
    >>> again.num_histories
    12

    Args:
        frame: With the columns that `to_pandas` gave it.
        path: Of the dataset.
        like: The dataset that the table came from, where `frame.attrs` no longer tells.
        overwrite: Replace the dataset at `path`.
        progress: Told the steps written and their total.

    Raises:
        UserError: If columns or rows are missing, or values do not fit. No dataset is left then.
    """
    where = "frame"
    text = describe(like) if like is not None else frame.attrs.get(KEY)
    if text is None:
        raise UserError(
            f"{where}: attrs[{KEY!r}], the description of its dataset, is gone; name the dataset "
            "with like=HistoryDataset(...)"
        )
    described = restored(text, where)
    kinds = quantities(described.info)
    wanted = [*INDEX, *(name for kind in kinds for name in _names(kind))]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise UserError(f"{where} lacks the column {missing[0]!r}; see HistoryDataset.to_pandas")
    # A table may be a part: some histories, or their beginnings.
    info = with_histories(described.info, max(1, int(frame["history"].nunique())))
    part = described._replace(info=info, steps=None, is_from_file=False)
    return write_rows(
        Path(path), part, _blocks(frame, kinds), where=where, num_rows=len(frame),
        progress=progress, overwrite=overwrite,
    )  # fmt: skip


def _names(kind: Quantity) -> list[str]:
    """The columns of one quantity: one for each number of a vector, unless they are many."""
    if kind.shape == () or math.prod(kind.shape) > MOST_COLUMNS:
        return [kind.name]
    return [f"{kind.name}.{'.'.join(map(str, place))}" for place in np.ndindex(*kind.shape)]


def _blocks(frame: Any, kinds: list[Quantity]) -> Iterator[dict[str, np.ndarray]]:
    for _, part in frame.groupby("history", sort=False):
        block = {name: part[name].to_numpy() for name in INDEX}
        for kind in kinds:
            names = _names(kind)
            if kind.shape == ():
                block[kind.name] = part[kind.name].to_numpy()
            elif names == [kind.name]:
                block[kind.name] = np.stack(part[kind.name].to_list())
            else:
                flat = np.stack([part[name].to_numpy() for name in names], axis=1)
                block[kind.name] = flat.reshape(-1, *kind.shape)
        yield block
