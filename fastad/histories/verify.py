"""Holding every file of a dataset to the digest that was stored when it was written."""

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

from fastad.base.errors import UserError, os_error
from fastad.base.files import file_digest, is_sealed
from fastad.base.possession import is_marked, marker_name
from fastad.base.verdict import Verdict
from fastad.histories.columns import shard_files, stem
from fastad.histories.meta import rerun, shard_path
from fastad.histories.reader import load_description
from fastad.histories.schema import INFO_FILE, META_FILE, TASKS_FILE, DatasetInfo
from fastad.histories.shards import load_meta
from fastad.histories.validate import spread

_logger = logging.getLogger(__name__)

MAX_BYTES = 2**30  # that are read before a training: a second or two


def verify_dataset(
    path: Path, *, progress: Callable[[int], None] = lambda num_bytes: None
) -> Verdict:
    """Read every file of a dataset and compare it with its digest.

    Args:
        path: The dataset.
        progress: Told of every few megabytes that were read.

    Raises:
        OSError: If what describes the dataset or a shard cannot be read.
    """
    verdict = Verdict([], [])
    try:
        info, _ = load_description(path)
    except UserError as error:
        verdict.wrong.append(str(error))
        return verdict
    if not is_sealed(path / INFO_FILE):
        verdict.unknown.append(f"{path / INFO_FILE}: written without a digest")
    if not info.tasks_digest:
        verdict.unknown.append(f"{path / TASKS_FILE}: written without a digest")
    _verify_marker(path, verdict)
    for index in range(info.num_shards):
        try:
            _verify_shard(path, info, index, verdict, progress)
        except UserError as error:
            verdict.wrong.append(str(error))
    return verdict


def check_columns(path: Path, info: DatasetInfo, *, max_bytes: int = MAX_BYTES) -> None:
    """Hold the columns of a dataset to their digests before anything is learnt from them.

    Those of a large one in evenly spaced shards, as many as take seconds; the log says so.

    Args:
        path: The dataset.
        info: Of it.
        max_bytes: To read, or one shard.

    Raises:
        UserError: Naming the first file that is not what was written.
        OSError: If one cannot be read.
    """
    all_bytes = column_bytes(path, info)
    share = min(1.0, max_bytes / max(1, all_bytes))
    chosen = spread(info.num_shards, max(1, int(share * info.num_shards)))
    for index in chosen:
        verdict = Verdict([], [])
        _verify_shard(path, info, int(index), verdict, lambda num_bytes: None)
        if verdict.wrong:
            raise UserError(verdict.wrong[0])
    if len(chosen) < info.num_shards:
        _logger.info(
            f"{path}: {len(chosen)} of {info.num_shards} shards were held to their digests; "
            f"for all: fastad inspect {shlex.quote(str(path))} --verify"
        )


def column_bytes(path: Path, info: DatasetInfo) -> int:
    """Bytes that `verify_dataset` reads, for a bar."""
    files = (
        shard_path(path, index) / f"{stem(info, name)}.npy"
        for index in range(info.num_shards)
        for name in shard_files(info)
    )
    return sum(file.stat().st_size for file in files if file.is_file())


def _verify_marker(path: Path, verdict: Verdict) -> None:
    file = path / marker_name("dataset")
    try:
        if is_marked(path, "dataset"):
            return
    except UserError as error:
        verdict.wrong.append(str(error))
        return
    if file.exists():
        verdict.wrong.append(f"{file}: damaged; delete it and run `fastad collect --resume`")
    else:
        verdict.unknown.append(f"{file}: missing, as in datasets of older versions")


def _verify_shard(
    path: Path, info: DatasetInfo, index: int, verdict: Verdict, progress: Callable[[int], None]
) -> None:
    shard = shard_path(path, index)
    meta = load_meta(path, info, index)
    committed = 0 if meta is None else meta.committed_steps
    if meta is None or committed < info.num_steps:
        verdict.unknown.append(f"{shard}: {committed:,} of {info.num_steps:,} steps are there")
        return
    written = {stem(info, name) for name in shard_files(info)}
    if not is_sealed(shard / META_FILE) or meta.digests.keys() != written:
        verdict.unknown.append(f"{shard}: written without digests")
        return
    for name, expected in meta.digests.items():
        file = shard / f"{name}.npy"
        try:
            found = file_digest(file, fix=rerun(shard), progress=progress)
        except FileNotFoundError:
            verdict.wrong.append(f"{file}: missing; {rerun(shard)}")
            continue
        except UserError as error:
            verdict.wrong.append(str(error))
            continue
        except OSError as error:
            # What a failing disk cannot give back is damage too, and the other files count.
            verdict.wrong.append(str(os_error(error)))
            continue
        if found != expected:
            verdict.wrong.append(f"{file}: damaged; {rerun(shard)}")
