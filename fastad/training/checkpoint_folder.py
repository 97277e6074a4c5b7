"""A checkpoint as a folder: whole or absent, each file held to its digest, never through a link."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError, naming
from fastad.base.files import (
    digest,
    is_sealed,
    kind_of,
    read_bytes,
    read_json,
    read_stored,
    sync_folder,
    write_json,
    write_new,
)
from fastad.base.verdict import Verdict
from fastad.training.model_files import is_model_folder
from fastad.training.run_files import (
    CHECKPOINT_FILES,
    CHECKPOINT_NAME,
    CHECKPOINTS,
    missing_run,
)

MODEL, DESCRIPTION, OPTIMIZER, STATE, MANIFEST = CHECKPOINT_FILES
MAX_JSON_BYTES = 2**20
KEEP = 2  # checkpoints of a run
DAMAGED = "the checkpoint is damaged"


def list_checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first.

    Raises:
        UserError: If something is named like a checkpoint that fastad cannot have written.
    """
    folder = run / CHECKPOINTS
    found = {}
    for path in folder.iterdir() if folder.exists() else ():
        if not path.name.startswith("step-") or path.name.endswith(".part"):
            continue
        try:
            step, mode = step_of(path), path.lstat().st_mode
        except FileNotFoundError:
            return list_checkpoints(run)  # its training deleted it meanwhile, and wrote another
        if step is None or kind_of(mode) != "folder":
            raise UserError(
                f"{path} is a {kind_of(mode)} named like a checkpoint, and none of fastad's; "
                "move it elsewhere"
            )
        found[step] = path
    return [found[step] for step in sorted(found)]


def step_of(checkpoint: Path) -> int | None:
    """The update that a checkpoint's name tells; None for another name."""
    match = re.fullmatch(CHECKPOINT_NAME, checkpoint.name)
    return int(match[1]) if match else None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint or the model folder at `path`, or the newest checkpoint of the run there.

    Raises:
        UserError: If there is none.
    """
    if (path / DESCRIPTION).is_file() or is_model_folder(path):
        return path
    if not path.exists():
        raise missing_run(path)
    found = list_checkpoints(path) if path.is_dir() else []
    if not found:
        raise UserError(
            f"run={path} holds no checkpoint; give a folder that `fastad train` wrote"
            + (", or continue it with --resume" if (path / "config.yaml").exists() else "")
        )
    return found[-1]


def write_checkpoint(run: Path, step: int, files: dict[str, bytes], *, keep: int) -> Path:
    """Write checkpoints/step-XXXXXXXX under `run`, whose lock is held.

    It appears whole or not at all, and older ones go when it has appeared. One of this step that
    is there already stays: a training that was resumed there and stopped at once has no other.

    Args:
        run: The run folder.
        step: Updates done.
        files: Contents by name; all of `CHECKPOINT_FILES` but the manifest.
        keep: Newest checkpoints that stay.
    """
    folder = run / CHECKPOINTS
    final = folder / f"step-{step:08d}"
    part = final.with_name(final.name + ".part")
    if final.exists():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    _delete_torn(folder)
    part.mkdir()
    sizes = {
        name: {"bytes": len(content), "digest": digest(content)} for name, content in files.items()
    }
    try:
        for name, content in files.items():
            with naming(part / name):
                write_new(part / name, content)
        # Flushes the names of the others too.
        write_json(part / MANIFEST, {"step": step, "files": sizes}, seal=True)
    except OSError:
        _delete(part)  # a full disk shall not stay full of what is of no use
        raise
    part.rename(final)
    sync_folder(folder)
    _delete_old(run, keep)
    return final


def tidy_checkpoints(run: Path, *, keep: int) -> None:
    """Finish what a kill kept `write_checkpoint` from, in a run whose lock is held.

    Args:
        run: The run folder.
        keep: Newest checkpoints that stay.
    """
    _delete_torn(run / CHECKPOINTS)
    _delete_old(run, keep)


def _delete_torn(folder: Path) -> None:
    for torn in folder.glob("*.part"):
        if step_of(torn.with_suffix("")) is not None:
            _delete(torn)


def _delete_old(run: Path, keep: int) -> None:
    for old in list_checkpoints(run)[:-keep]:
        # Whatever somebody laid into it keeps it.
        if {file.name for file in old.iterdir()} <= {*CHECKPOINT_FILES}:
            # A kill while files are deleted shall not leave a checkpoint that looks damaged.
            _delete(old.rename(old.with_name(old.name + ".part")))


def read_checkpoint(folder: Path, *names: str) -> tuple[dict[str, bytes], int | None]:
    """Read files of a checkpoint, each as it was written or not at all.

    Args:
        folder: The checkpoint.
        names: Of `CHECKPOINT_FILES`.

    Returns:
        Contents by name, and the step that the manifest tells; None for a checkpoint from before
        there were manifests, whose files are not held to anything.

    Raises:
        UserError: Naming the file that is missing or damaged.
    """
    manifest = _read_manifest(folder)
    if manifest is None:
        return {name: _read_unsealed(folder / name) for name in names}, None
    step, own = manifest["step"], step_of(folder)
    if own not in (None, step):
        raise UserError(f"{folder} holds the checkpoint of update {step}; {DAMAGED}")
    told = manifest["files"]
    contents = {
        name: read_stored(folder / name, told[name]["bytes"], told[name]["digest"], fix=DAMAGED)
        for name in names
    }
    return contents, step


def verify_checkpoint(folder: Path) -> bool:
    """Hold every file of a checkpoint to its digest; False if it is from before they had any.

    Raises:
        UserError: Naming the first file that is missing or damaged, or what fastad did not write.
    """
    _, step = read_checkpoint(folder, *(name for name in CHECKPOINT_FILES if name != MANIFEST))
    return step is not None


def verify_checkpoints(run: Path) -> Verdict:
    """Hold every file of every checkpoint of a run to its digest."""
    verdict = Verdict([], [])
    try:
        for folder in list_checkpoints(run):
            try:
                if not verify_checkpoint(folder):
                    verdict.unknown.append(f"{folder}: from before checkpoints had digests")
            except UserError as error:
                verdict.wrong.append(str(error))
    except UserError as error:
        verdict.wrong.append(str(error))
    return verdict


def way_on(damaged: Path) -> str:
    """What can be done instead of loading a damaged checkpoint."""
    damaged = damaged.resolve()
    beside = list_checkpoints(damaged.parents[1]) if damaged.parent.name == CHECKPOINTS else []
    for other in reversed(beside):
        if other == damaged:
            continue
        with suppress(UserError):
            if verify_checkpoint(other):
                on = f"delete {damaged} and --resume from there"
                return f"{other} is whole: name that one, or {on}"
    return "no other checkpoint of this run is whole: train again with --overwrite"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest; None for a checkpoint from before there were any."""
    file = folder / MANIFEST
    if not file.exists():
        if _format_version(folder) == 1:
            return None
        raise UserError(f"{file} is missing or damaged (No such file); {DAMAGED}")
    manifest = read_json(file, fix=DAMAGED, limit=MAX_JSON_BYTES)
    if not is_sealed(file):
        raise UserError(f"{file} is missing or damaged (it lacks its digest); {DAMAGED}")
    if not _is_whole(manifest):
        raise UserError(f"{file} is missing or damaged (it does not tell every file); {DAMAGED}")
    return manifest


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether a manifest tells the step, and size and digest of every file."""
    files = manifest.get("files")
    if type(manifest.get("step")) is not int or not isinstance(files, dict):
        return False
    entries = [files.get(name) for name in CHECKPOINT_FILES if name != MANIFEST]
    return all(
        isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("digest"), str)
        for entry in entries
    )


def _format_version(folder: Path) -> object:
    file = folder / DESCRIPTION
    if not file.exists():
        return None
    return read_json(file, fix=DAMAGED, limit=MAX_JSON_BYTES).get("format_version")


def _read_unsealed(file: Path) -> bytes:
    """The content of a file of an earlier fastad, which kept no digests."""
    try:
        return read_bytes(file, fix=DAMAGED, limit=file.lstat().st_size)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing or damaged ({error.strerror}); {DAMAGED}") from error


def _delete(part: Path) -> None:
    """Delete a torn checkpoint, of which nothing else can be in use.

    Raises:
        OSError: If anything lies in it that fastad did not write.
    """
    for name in CHECKPOINT_FILES:
        (part / name).unlink(missing_ok=True)
        (part / f"{name}.tmp").unlink(missing_ok=True)
    part.rmdir()
