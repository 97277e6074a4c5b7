"""Opening the shards of a dataset: everything that headers and sizes can tell is checked."""

import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastad.base.errors import UserError
from fastad.base.files import kind_of
from fastad.histories.bounds import load_bounds
from fastad.histories.columns import BOUNDS, columns, stem
from fastad.histories.meta import LEARNER_IDS, ShardMeta, rerun, shard_path, shard_range
from fastad.histories.npy import map_array
from fastad.histories.schema import META_FILE, DatasetInfo


class Shard(NamedTuple):
    """One shard as it was when the dataset was opened."""

    path: Path
    meta: ShardMeta
    first_history: int  # in the numbering of the complete dataset
    columns: dict[str, np.ndarray]  # (histories, steps, ...), read-only maps
    bounds: list[np.ndarray] | None  # per history, where they are stored; see `find_bounds`


def open_shard(path: Path, info: DatasetInfo, index: int) -> Shard | None:
    """Open a shard; None if nothing of it is committed.

    Raises:
        UserError: If anything of it is missing or damaged.
        OSError: If a file cannot be read or mapped.
    """
    shard, histories = shard_path(path, index), shard_range(info, index)
    meta = load_meta(path, info, index)
    while meta is not None and meta.committed_steps > 0:
        maps = {}
        for name, column in columns(info).items():
            shape = (len(histories), info.num_steps, *column.shape)
            file = shard / f"{stem(info, name)}.npy"
            maps[name] = _open_column(file, column.dtype, shape)
        bounds = None
        if info.has_bounds and meta.committed_steps == info.num_steps:
            lengths = meta.lengths or [info.num_steps] * len(histories)
            bounds = load_bounds(shard / f"{BOUNDS}.npy", lengths, fix=rerun(shard))
        # A writer that began the shard again may have replaced columns under our hands, but
        # only after it replaced meta.json: an unchanged attempt vouches for these files.
        latest = load_meta(path, info, index)
        if latest is not None and latest.attempt == meta.attempt:
            return Shard(shard, meta, histories.start, maps, bounds)
        meta = latest
    return None


def load_meta(path: Path, info: DatasetInfo, index: int) -> ShardMeta | None:
    """Read the meta.json of a shard and hold it to the dataset; None if it was never begun.

    Raises:
        UserError: If it is damaged, does not fit, or is missing although there are columns: a
            shard does not vanish with its meta.json.
    """
    shard = shard_path(path, index)
    try:
        mode = shard.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(mode):
        raise UserError(f"{shard}: is a {kind_of(mode)}, not a folder; {rerun(shard)}")
    # A writer begins with meta.json, so a look after the columns finds it if it was just begun.
    has_columns = any((shard / f"{stem(info, name)}.npy").exists() for name in columns(info))
    meta = ShardMeta.load(shard)
    if meta is not None:
        if meta.index not in (-1, index):
            raise UserError(
                f"{shard / META_FILE}: field 'index' is {meta.index}, that of another shard; "
                f"{rerun(shard)}"
            )
        _check_meta(shard, meta, info, len(shard_range(info, index)))
    elif has_columns:
        raise UserError(f"{shard / META_FILE}: missing, but columns are there; {rerun(shard)}")
    return meta


def _check_meta(shard: Path, meta: ShardMeta, info: DatasetInfo, num_histories: int) -> None:
    file = shard / META_FILE
    learner_ids = LEARNER_IDS[info.schema_version]
    for name, values in (("task_ids", meta.task_ids), (learner_ids, meta.learner_ids)):
        if len(values) != num_histories:
            raise UserError(
                f"{file}: field {name!r} has {len(values)} entries, but the shard "
                f"holds {num_histories} histories; {rerun(shard)}"
            )
    wrong = [task for task in meta.task_ids if not 0 <= task < info.num_tasks]
    if wrong:
        raise UserError(
            f"{file}: field 'task_ids' holds {wrong[0]}, but tasks are 0 to "
            f"{info.num_tasks - 1}; {rerun(shard)}"
        )
    if meta.lengths and len(meta.lengths) != num_histories:
        raise UserError(
            f"{file}: field 'lengths' has {len(meta.lengths)} entries, but the shard holds "
            f"{num_histories} histories; {rerun(shard)}"
        )
    if any(not 1 <= length <= info.num_steps for length in meta.lengths):
        raise UserError(
            f"{file}: field 'lengths' holds {min(meta.lengths)} to {max(meta.lengths)}, but "
            f"histories have 1 to {info.num_steps} steps; {rerun(shard)}"
        )
    if not 0 <= meta.committed_steps <= info.num_steps:
        raise UserError(
            f"{file}: field 'committed_steps' is {meta.committed_steps}, but histories have "
            f"{info.num_steps} steps; {rerun(shard)}"
        )


def _open_column(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    fix = rerun(file.parent)
    try:
        return map_array(file, dtype, shape, fix=fix)
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; {fix}") from error
