"""Histories to and from Parquet: one row per step, the description in the file's metadata."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastad.base.beside import file_beside
from fastad.base.errors import UserError
from fastad.base.extras import import_extra
from fastad.base.progress import Report
from fastad.histories.formats.described import KEY, check_whole, describe, restored
from fastad.histories.formats.rows import INDEX, Quantity, quantities, read_rows, write_rows
from fastad.histories.histories import Histories
from fastad.histories.reader import HistoryDataset
from fastad.histories.schema import DatasetInfo

GROUP_BYTES, GROUP_ROWS = 2**25, 2**17  # of one row group, before compression
MAX_GROUP_BYTES = 2**31  # of one that is read

DAMAGED = (OSError, ValueError, KeyError, IndexError, OverflowError)  # what its readers raise


def write_parquet(dataset: Histories, file: Path, *, progress: Report, overwrite: bool) -> None:
    """Write a dataset as one Parquet file, row group by row group.

    Columns: `INDEX`, then what happened: numbers as they are, vectors and images as lists of a
    fixed size, the parts of a Dict or Tuple as "observation.PART".

    Raises:
        UserError: If the dataset is not complete, or `file` may not be written.
    """
    pyarrow, parquet = _libraries()
    check_whole(dataset)
    kinds = _kinds(dataset)
    schema = pyarrow.schema(
        [(kind.name, _type(pyarrow, kind)) for kind in kinds], metadata={KEY: describe(dataset)}
    )
    bytes_per_row = sum(kind.dtype.itemsize * math.prod(kind.shape) for kind in kinds)
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // bytes_per_row))
    done, total = 0, int(dataset.lengths.sum())
    progress(0, total)
    with (
        file_beside(file, is_own_parquet, overwrite=overwrite) as part,
        parquet.ParquetWriter(part, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        held: list[Any] = []
        for history, start, stop in _pieces(dataset, group):
            rows = read_rows(dataset, history, start, stop)
            arrays = [_array(pyarrow, kind, rows[kind.name]) for kind in kinds]
            held.append(pyarrow.Table.from_arrays(arrays, schema=schema))
            if sum(map(len, held)) >= group:
                writer.write_table(pyarrow.concat_tables(held), row_group_size=group)
                held = []
            done += stop - start
            progress(done, total)
        if held:
            writer.write_table(pyarrow.concat_tables(held), row_group_size=group)


def read_parquet(file: Path, path: Path, *, progress: Report, overwrite: bool) -> HistoryDataset:
    """Write the dataset that a Parquet file of `write_parquet` is of.

    Raises:
        UserError: If it is no such file, or damaged. No dataset is left then.
    """
    pyarrow, parquet = _libraries()
    where = f"source={file}"
    try:
        opened = parquet.ParquetFile(file, page_checksum_verification=True)
        text = (opened.schema_arrow.metadata or {}).get(KEY.encode())
        if text is None:
            raise UserError(
                f"{where} is a Parquet file without the description that fastad writes; histories "
                "of others come in by fastad.histories.create"
            )
        described = restored(text, where)
        info = described.info
        kinds = _checked_kinds(opened, info, pyarrow, where)
        blocks = _blocks(opened, kinds, info, where)
        return write_rows(
            path, described, blocks, where=where, num_rows=opened.metadata.num_rows,
            progress=progress, overwrite=overwrite,
        )  # fmt: skip
    except (*DAMAGED, pyarrow.ArrowException) as error:
        if isinstance(error, UserError) or getattr(error, "filename", None) is not None:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where} is no Parquet file, or cut short or damaged ({reason}); convert it again"
        ) from error


def is_own_parquet(file: Path) -> bool:
    """Whether a file is one of `write_parquet`."""
    pyarrow, parquet = _libraries()
    try:
        return KEY.encode() in (parquet.read_schema(file).metadata or {})
    except (*DAMAGED, pyarrow.ArrowException):
        return False


def _libraries() -> tuple[Any, Any]:
    what = "Parquet"
    pyarrow = import_extra("pyarrow", "parquet", what)
    return pyarrow, import_extra("pyarrow.parquet", "parquet", what)


def _kinds(dataset: Histories) -> list[Quantity]:
    learners = np.asarray(dataset.learner_ids).dtype
    index = [Quantity(n, learners if n == "learner" else np.dtype(np.int64), ()) for n in INDEX]
    return [*index, *quantities(dataset.info)]


def _type(pyarrow: Any, kind: Quantity) -> Any:
    item = pyarrow.from_numpy_dtype(kind.dtype)
    return item if kind.shape == () else pyarrow.list_(item, math.prod(kind.shape))


def _array(pyarrow: Any, kind: Quantity, values: np.ndarray) -> Any:
    flat = pyarrow.array(np.ascontiguousarray(values, kind.dtype).reshape(-1))
    if kind.shape == ():
        return flat
    return pyarrow.FixedSizeListArray.from_arrays(flat, math.prod(kind.shape))


def _pieces(dataset: Histories, most: int) -> Iterator[tuple[int, int, int]]:
    """History, start and stop of pieces of at most so many steps."""
    for history, length in enumerate(dataset.lengths.tolist()):
        for start in range(0, length, most):
            yield history, start, min(start + most, length)


def _checked_kinds(opened: Any, info: DatasetInfo, pyarrow: Any, where: str) -> list[Quantity]:
    """What the file must have, if it has it all."""
    kinds = [*(Quantity(name, np.dtype(np.int64), ()) for name in INDEX), *quantities(info)]
    types = {field.name: field.type for field in opened.schema_arrow}
    names = opened.schema_arrow.names
    for kind in kinds:
        if names.count(kind.name) != 1:
            how = "has twice" if kind.name in names else "lacks"
            raise UserError(f"{where} {how} the column {kind.name!r}; convert the dataset again")
        expected, is_whole = _type(pyarrow, kind), pyarrow.types.is_integer(types[kind.name])
        if types[kind.name] != expected and not (kind.name == "learner" and is_whole):
            raise UserError(
                f"{where}: column {kind.name!r} is {types[kind.name]}, not {expected}; convert the "
                "dataset again"
            )
    for index in range(opened.metadata.num_row_groups):
        size = opened.metadata.row_group(index).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise UserError(
                f"{where}: row group {index} has {size:,} bytes, at most {MAX_GROUP_BYTES:,} are "
                "read; write it in smaller ones"
            )
    return kinds


def _blocks(
    opened: Any, kinds: list[Quantity], info: DatasetInfo, where: str
) -> Iterator[dict[str, np.ndarray]]:
    names = [kind.name for kind in kinds]
    bytes_per_row = sum(kind.dtype.itemsize * math.prod(kind.shape) for kind in kinds)
    size = max(1, min(GROUP_ROWS, GROUP_BYTES // bytes_per_row))
    for batch in opened.iter_batches(batch_size=size, columns=names):
        block = {}
        for kind in kinds:
            column = batch.column(batch.schema.get_field_index(kind.name))
            values = column if kind.shape == () else column.flatten()
            if column.null_count or values.null_count:
                raise UserError(f"{where}: column {kind.name!r} has gaps; fill them in")
            block[kind.name] = values.to_numpy(zero_copy_only=False).reshape(-1, *kind.shape)
        yield block
