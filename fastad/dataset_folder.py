"""Taking possession of the folder that a dataset goes to, and of nothing else."""

import shutil
from pathlib import Path

from torch import Tensor

from fastad.base.files import as_json
from fastad.config import differences
from fastad.errors import UserError
from fastad.histories.reader import load_info
from fastad.histories.schema import INFO_FILE, TASKS_FILE, DatasetInfo, shard_path
from fastad.histories.writer import create_dataset


def begin_dataset(
    out: Path, info: DatasetInfo, tasks: Tensor, *, resume: bool, overwrite: bool
) -> None:
    """Create a dataset, or make sure that the one that is there may be continued.

    Args:
        out: Created if missing.
        info: What the dataset shall be.
        tasks: (num_tasks, K).
        resume: Continue the dataset in `out`, if there is one.
        overwrite: Delete the dataset in `out`, if there is one.

    Raises:
        UserError: If `out` holds a dataset and neither was asked for, a dataset with other
            settings, or anything else. Nothing has been written or deleted then.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other; choose one")
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file; choose a folder")
    if (out / INFO_FILE).is_file():
        if overwrite:
            _delete(out)
        elif resume:
            _check_unchanged(out, info)
        else:
            raise UserError(
                f"out={out} holds a dataset; continue it with --resume, or replace it with "
                "--overwrite"
            )
    elif out.exists() and _strangers(out):
        raise UserError(f"out={out} is not empty and holds no dataset; choose another folder")
    create_dataset(out, info, tasks.numpy())


def _strangers(out: Path) -> list[str]:
    """What neither a dataset nor a kill while it was begun leaves in its folder."""
    ours = (INFO_FILE, TASKS_FILE)
    return sorted(
        file.name
        for file in out.iterdir()
        if file.name not in ours and not (file.name.endswith(".tmp") and file.name.startswith(ours))
    )


def _delete(out: Path) -> None:
    """Delete a dataset; its description goes last, so that a kill leaves it recognisable."""
    info = load_info(out)
    shards = [shard_path(out, index) for index in range(info.num_shards)]
    strangers = set(_strangers(out)) - {shard.name for shard in shards}
    if strangers:
        raise UserError(
            f"out={out} holds more than its dataset ({', '.join(sorted(strangers)[:3])}); "
            "move that elsewhere or choose another folder"
        )
    for shard in shards:
        if shard.exists():
            shutil.rmtree(shard)
    for name in (TASKS_FILE, INFO_FILE):
        (out / name).unlink(missing_ok=True)


def _check_unchanged(out: Path, info: DatasetInfo) -> None:
    """Versions may differ: finishing a dataset after an upgrade is no new dataset."""
    old, new = (as_json(side.to_json()) for side in (load_info(out), info))
    for side in (old, new):
        del side["versions"]
    changed = differences(old, new)
    if changed:
        raise UserError(
            f"--resume of {out} with changed settings ({'; '.join(changed)}); put them back, or "
            "start anew with --overwrite"
        )
