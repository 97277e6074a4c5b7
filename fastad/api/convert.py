"""What `convert` does: which way follows from what source and destination are."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fastad.base.errors import UserError
from fastad.base.progress import Report, unwatched
from fastad.base.provenance import describe_machine
from fastad.evaluate.hugging_face import write_model_folder
from fastad.histories.formats.described import Described
from fastad.histories.formats.minari_in import Grouping, read_minari
from fastad.histories.formats.minari_names import ID, PREFIX, is_minari_folder, root
from fastad.histories.formats.minari_out import write_minari
from fastad.histories.formats.parquet import read_parquet, write_parquet
from fastad.histories.formats.rows import read_rows, write_rows
from fastad.histories.formats.xland import XLandHistories, is_hdf5
from fastad.histories.histories import Histories
from fastad.histories.opening import open_histories
from fastad.histories.own import num_shards_for
from fastad.histories.schema import INFO_FILE
from fastad.training.model_files import is_model_folder
from fastad.training.run_files import CHECKPOINTS, CONFIG

Format = Literal["dataset", "minari", "parquet", "xland", "run", "model"]
PARQUET = ".parquet"
COPIED_STEPS = 2**14  # of a history at once


class _Asked(NamedTuple):
    source: Path
    destination: Path
    grouping: Grouping
    overwrite: bool
    progress: Report


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    from_format: Format | None = None,
    to_format: Format | None = None,
    history_key: str | None = None,
    task_key: str | None = None,
    env: str | None = None,
    num_test_tasks: int = 0,
    overwrite: bool = False,
    progress: Report | None = None,
) -> Path:
    """Bring histories or a model from one format into another.

    >>> import fastad
    >>> fastad.convert("runs/room", "models/room")  # a run: a Hugging Face folder
    PosixPath('models/room')
    >>> fastad.Run("models/room").model().actions.num_params
    5

    Args:
        source: A dataset, a run or one of its checkpoints, minari:NAME-v0, a .parquet or an .hdf5
            file.
        destination: A folder, minari:NAME-v0 or a .parquet file.
        from_format: What `source` is, where its name and content do not tell.
        to_format: What `destination` shall be, where its name does not tell.
        history_key: Of Minari data of others: metadata that tell which history an episode is of.
        task_key: The same of tasks.
        env: The same: the environment by name; a label if left out.
        num_test_tasks: The same: how many of the tasks, the last ones, are held out.
        overwrite: Replace what fastad wrote to `destination`.
        progress: Told the steps converted and their total.

    Returns:
        What was written: a folder or a file.

    Raises:
        UserError: For what cannot be converted, by name. Nothing has been written then.
    """
    came = from_format or _format_of(Path(source))
    goes = to_format or _format_for(came, str(destination))
    ways: dict[tuple[Format, Format], Callable[[_Asked], Path]] = {
        ("dataset", "minari"): _to_minari,
        ("dataset", "parquet"): _to_parquet,
        ("xland", "minari"): _to_minari,
        ("xland", "parquet"): _to_parquet,
        ("xland", "dataset"): _copy,
        ("minari", "dataset"): _from_minari,
        ("parquet", "dataset"): _from_parquet,
        ("run", "model"): _to_model,
    }
    if (came, goes) not in ways:
        if came == "model":
            raise UserError(
                f"source={source} is a model's folder already; load it by name: fastad rollout "
                f"{source}, or fastad.Run(...).model()"
            )
        to = ", ".join(sorted(to for of, to in ways if of == came)) or "nothing else"
        raise UserError(
            f"source={source} is of the format {came}, which becomes {to}, not {goes}; give "
            "another destination, or convert by way of a dataset"
        )
    grouping = Grouping(history_key, task_key, env, num_test_tasks)
    if came != "minari" and grouping != Grouping():
        raise UserError(
            f"source={source} is of the format {came}; --history-key, --task-key, --env and "
            "--num-test-tasks are for Minari's data: leave them out"
        )
    asked = _Asked(Path(source), Path(destination), grouping, overwrite, progress or unwatched)
    return ways[came, goes](asked)


def _format_of(source: Path) -> Format:
    """What a source is."""
    word = str(source)
    if word.startswith(PREFIX) or is_minari_folder(source):
        return "minari"
    if (source / INFO_FILE).is_file():
        return "dataset"
    if any((source / name).exists() for name in (CONFIG, CHECKPOINTS, "model.json")):
        return "run"
    if is_model_folder(source):
        return "model"
    if not source.exists():
        if ID.fullmatch(word) and is_minari_folder(root() / word):
            return "minari"
        raise UserError(
            f"source={source} does not exist; name a dataset, a run, a file, or {PREFIX}NAME-v0"
        )
    if source.suffix.lower() == PARQUET:
        return "parquet"
    if is_hdf5(source):
        return "xland"
    what = "folder" if source.is_dir() else "file"
    raise UserError(
        f"source={source} is a {what} of no known format; name a dataset ({INFO_FILE}), a run "
        f"({CONFIG}), a Minari dataset, a {PARQUET} or an .hdf5 file, or say --from-format"
    )


def _format_for(came: Format, destination: str) -> Format:
    """What a destination shall be, by its name and what comes in."""
    if destination.startswith(PREFIX):
        return "minari"
    if destination.lower().endswith(PARQUET):
        return "parquet"
    suffix = Path(destination).suffix
    if suffix.lower() in (".hdf5", ".h5", ".csv", ".json", ".npz", ".pkl", ".zip"):
        raise UserError(
            f"destination={destination} ends with {suffix}, which fastad does not write; name a "
            f"folder, a {PARQUET} file or {PREFIX}NAME-v0"
        )
    if came == "run":
        return "model"
    if came == "dataset":
        raise UserError(
            f"destination={destination} does not say what the dataset shall become; end it with "
            f"{PARQUET}, or write {PREFIX}NAME-v0"
        )
    return "dataset"


def _to_minari(asked: _Asked) -> Path:
    return write_minari(
        open_histories(asked.source), str(asked.destination), progress=asked.progress,
        overwrite=asked.overwrite,
    )  # fmt: skip


def _to_parquet(asked: _Asked) -> Path:
    histories, file = open_histories(asked.source), asked.destination
    write_parquet(histories, file, progress=asked.progress, overwrite=asked.overwrite)
    return file


def _from_minari(asked: _Asked) -> Path:
    read_minari(
        str(asked.source), asked.destination, asked.grouping, progress=asked.progress,
        overwrite=asked.overwrite,
    )  # fmt: skip
    return asked.destination


def _from_parquet(asked: _Asked) -> Path:
    source, path = asked.source, asked.destination
    read_parquet(source, path, progress=asked.progress, overwrite=asked.overwrite)
    return path


def _copy(asked: _Asked) -> Path:
    histories = XLandHistories(asked.source)
    info = replace(histories.info, versions=describe_machine())
    info, num_steps = replace(info, num_shards=num_shards_for(info)), int(histories.lengths.sum())
    write_rows(
        asked.destination, Described(info, histories.tasks, num_steps), _rows(histories),
        where=f"source={asked.source}", num_rows=num_steps, progress=asked.progress,
        overwrite=asked.overwrite,
    )  # fmt: skip
    return asked.destination


def _rows(histories: Histories) -> Iterator[dict[str, np.ndarray]]:
    for history, length in enumerate(histories.lengths.tolist()):
        for start in range(0, length, COPIED_STEPS):
            yield read_rows(histories, history, start, min(start + COPIED_STEPS, length))


def _to_model(asked: _Asked) -> Path:
    write_model_folder(asked.source, asked.destination, overwrite=asked.overwrite)
    return asked.destination
