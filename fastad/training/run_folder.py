"""Taking possession of a run folder, for as long as a training lasts, and writing to it."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastad.base.config import differences, dump_config, to_plain
from fastad.base.errors import UserError, naming
from fastad.base.files import digest, replace_durably
from fastad.base.locks import folder_lock
from fastad.base.possession import (
    delete_own,
    is_marked,
    mark,
    marker_name,
    strangers,
    torn_marker,
)
from fastad.base.provenance import describe_machine
from fastad.histories.opening import description_files, description_of
from fastad.training.checkpoint_folder import list_checkpoints, step_of
from fastad.training.run_files import (
    CHECKPOINTS,
    CONFIG,
    DATASET,
    MADE_BY,
    METRICS,
    ONCE,
    check_run,
    is_ours,
    read_config,
    read_metrics,
    replace_config,
    seal_run,
    settings_of,
)


class RunFolder:
    """A run that this process alone writes to; see `open_run`."""

    def __init__(self, path: Path, *, is_new: bool) -> None:
        self.path, self.is_new = path, is_new

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one record to metrics.jsonl."""
        file = self.path / METRICS
        with naming(file), file.open("a") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")

    def forget_metrics_after(self, step: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Drop records beyond `step`, which a resumed run will write again.

        Returns:
            The others, and those that were dropped.
        """
        file = self.path / METRICS
        records = read_metrics(file)
        kept = [record for record in records if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        replace_durably(file, text.encode())
        return kept, [record for record in records if record["step"] > step]

    def take_back(self) -> None:
        """Delete what was begun in this session, before the first update."""
        assert self.is_new, "an earlier session's work is kept"
        _delete(self.path)


@contextmanager
def open_run(
    path: Path,
    config: Any,
    *,
    data: Path,
    numerics: dict[str, Any],
    resume: bool,
    overwrite: bool,
    extend: int | None = None,
) -> Iterator[RunFolder]:
    """Begin a run or take up the one that is there, as its only writer within the block.

    Args:
        path: Created if need be.
        config: The command's dataclass; what of it may change on resume, see `settings_of`.
        data: Dataset whose description is kept in the run, all that rollouts need to know of it.
        numerics: What decides the bits of a run that is begun, kept in it.
        resume: Continue what is there, if anything.
        overwrite: Delete the run that is there.
        extend: Updates that `config` has more than the run, which must be finished, and which is
            given the new config.

    Raises:
        UserError: If the folder holds a run and neither was asked for, if it holds anything that
            is not fastad's, if settings or the dataset changed since the run began, or if another
            process writes there. Nothing has been written or deleted then.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other; choose one")
    if path.exists():
        _check_ours(path, overwrite)
    path.mkdir(parents=True, exist_ok=True)
    with folder_lock(path):
        # Again: who held the lock may have changed everything.
        _check_ours(path, overwrite)
        if overwrite and is_marked(path, "run"):
            _delete(path)
        is_new = not (path / CONFIG).exists()
        if not is_new:
            _check_continued(path, config, data, resume, extend)
            if extend is not None:
                replace_config(path, _as_file(config))
        elif (path / CHECKPOINTS).exists():
            raise UserError(
                f"out={path} holds checkpoints without their {CONFIG}; replace them with "
                "--overwrite or choose another folder"
            )
        else:
            _begin(path, config, data, numerics)
        yield RunFolder(path, is_new=is_new)


def _delete(path: Path) -> None:
    delete_own(path, "run", is_ours, last=(CONFIG, marker_name("run")))


def _check_ours(path: Path, overwrite: bool) -> None:
    """Refuse a folder with anything in it that fastad cannot prove to be its own."""
    if not path.is_dir():
        raise UserError(f"out={path} is a file; choose a folder")
    foreign, marked = strangers(path, is_ours), is_marked(path, "run")
    if foreign and (overwrite or not marked):
        names = ", ".join(name.rstrip("/") for name in foreign[:3])
        raise UserError(
            f"out={path} holds more than a run ({names}); move that elsewhere or choose another "
            "folder"
        )
    torn = torn_marker(path, "run")
    unproven = [] if marked else strangers(path, lambda name: name == torn)
    if unproven:
        names = ", ".join(name.rstrip("/") for name in unproven[:3])
        raise UserError(
            f"out={path} holds {names}, but no {marker_name('run')} that shows it to be fastad's "
            "to write to; move that elsewhere or choose another folder"
        )


def _begin(path: Path, config: Any, data: Path, numerics: dict[str, Any]) -> None:
    """Write what never changes; the config last, so that a run which has one has the rest."""
    mark(path, "run")
    (path / DATASET).mkdir(exist_ok=True)
    made_by = describe_machine() | {"numerics": numerics}
    contents = {
        MADE_BY: json.dumps(made_by, indent=2).encode(),
        **{f"{DATASET}/{name}": file for name, file in description_files(data).items()},
        CONFIG: _as_file(config),
    }
    for name in contents.keys() - {CONFIG}:
        replace_durably(path / name, contents[name])
    seal_run(path, contents)
    replace_durably(path / CONFIG, contents[CONFIG])


def _as_file(config: Any) -> bytes:
    """The config as it is kept in the run, without what is asked for once."""
    plain = {name: value for name, value in to_plain(config).items() if name not in ONCE}
    return dump_config("train", plain).encode()


def _check_continued(path: Path, config: Any, data: Path, resume: bool, extend: int | None) -> None:
    """Refuse to continue a run that is not the one which was begun.

    Raises:
        UserError: If nobody asked to continue it, if it is damaged, or if settings or the dataset
            changed.
    """
    if not resume:
        raise UserError(
            f"out={path} holds a run; continue it with --resume, or replace it with --overwrite"
        )
    check_run(path)
    # A setting that came after the run began was at its default then.
    kept = read_config(path)
    by_default = to_plain(type(config)()) | {"method": kept.get("method", "ad")}
    begun = settings_of(by_default) | settings_of(kept)
    later = sorted(begun.keys() - settings_of(by_default).keys())
    if later:
        raise UserError(
            f"{path / CONFIG}: setting {later[0]!r} is unknown here, a later fastad began this "
            "run; upgrade fastad"
        )
    if extend is not None:
        _check_finished(path, begun["updates"], extend)
        begun["updates"] += extend
    changed = differences(begun, settings_of(to_plain(config)))
    if changed:
        how = "--resume" if extend is None else "--extend"
        raise UserError(
            f"{how} with changed settings ({'; '.join(changed)}); put them back, as "
            f"--config {shlex.quote(str(path / CONFIG))} has them, or start anew with --overwrite"
        )
    changed = differences(_description(path / DATASET), _description(data))
    if changed:
        raise UserError(
            f"data={data} is not the dataset that the run {path} was begun on "
            f"({'; '.join(changed)}); give that one, or start anew with --overwrite"
        )


def _check_finished(path: Path, updates: int, extend: int) -> None:
    checkpoints = list_checkpoints(path)
    done = (step_of(checkpoints[-1]) or 0) if checkpoints else 0
    if done < updates:
        config = shlex.quote(str(path / CONFIG))
        raise UserError(
            f"extend={extend} needs a finished run, and {path} is at update {done} of {updates}; "
            f"finish it with: fastad train --config {config} --resume"
        )


def _description(folder: Path) -> dict[str, Any]:
    """What makes a dataset what it is, its tasks by their digest.

    Read through the schema: a field that came after the run began has its default on both sides.
    """
    info, tasks = description_of(folder)
    return info.settings() | {"tasks": digest(tasks.tobytes())}
