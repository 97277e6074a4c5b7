"""The run folder: what was run, what made it, and how it went."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fastad.base.files import replace_durably, write_json
from fastad.config import differences, dump_config, to_plain
from fastad.errors import UserError
from fastad.histories.schema import INFO_FILE, TASKS_FILE

CONFIG, METRICS, MADE_BY = "config.yaml", "metrics.jsonl", "made_by.json"
CHECKPOINTS = "checkpoints"
DATASET = "dataset"  # folder with the description of the dataset, without its histories


class RunFolder:
    """A folder that holds one training run.

    Args:
        path: Created if need be.
        config: The command's dataclass; what of it may change on resume, see `settings_of`.
        resume: Continue what is there, if anything.
        overwrite: Delete the run that is there.

    Raises:
        UserError: If the folder holds a run and neither was asked for, if it holds anything else,
            or if settings changed since the run began. Nothing has been written or deleted then.
    """

    def __init__(self, path: Path, config: Any, *, resume: bool, overwrite: bool) -> None:
        self.path = path
        if resume and overwrite:
            raise UserError("--resume and --overwrite contradict each other; choose one")
        if path.exists():
            self._take_over(config, resume, overwrite)
        path.mkdir(parents=True, exist_ok=True)
        if not (path / CONFIG).exists():
            write_json(path / MADE_BY, describe_machine())
            plain = {k: v for k, v in to_plain(config).items() if k not in ("resume", "overwrite")}
            replace_durably(path / CONFIG, dump_config("train", plain).encode())

    def _take_over(self, config: Any, resume: bool, overwrite: bool) -> None:
        if not self.path.is_dir():
            raise UserError(f"out={self.path} is a file; choose a folder")
        strangers = sorted(f.name for f in self.path.iterdir() if not _is_ours(f.name))
        is_run = (self.path / CONFIG).is_file() and read_config(self.path).get("command") == "train"
        if strangers and (overwrite or not is_run):
            raise UserError(
                f"out={self.path} holds more than a run ({', '.join(strangers[:3])}); move that "
                "elsewhere or choose another folder"
            )
        if overwrite:
            self._delete()
        elif is_run and not resume:
            raise UserError(
                f"out={self.path} holds a run; continue it with --resume, or replace it with "
                "--overwrite"
            )
        elif is_run:
            self._check_unchanged(config)
        elif (self.path / CHECKPOINTS).exists():
            raise UserError(
                f"out={self.path} holds checkpoints without their {CONFIG}; replace them with "
                "--overwrite or choose another folder"
            )

    def _delete(self) -> None:
        """Delete the run, its config last: a kill leaves it recognisable, never half a run."""
        for name in (CHECKPOINTS, DATASET):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for file in sorted(self.path.iterdir(), key=lambda file: file.name == CONFIG):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def _check_unchanged(self, config: Any) -> None:
        then, now = read_config(self.path), to_plain(config)
        changed = differences(settings_of(then), settings_of(now))
        if changed:
            raise UserError(
                f"--resume with changed settings ({'; '.join(changed)}); put them back, or start "
                "anew with --overwrite"
            )
        for field in ("device", "threads", "attention"):
            if then.get(field) != now[field]:
                print(
                    f"resumed with {field}: {then.get(field)} -> {now[field]}; results may differ "
                    "by rounding from those of an unbroken run"
                )

    def forget_metrics_after(self, step: int) -> None:
        """Drop records beyond `step`, which a resumed run will write again."""
        file = self.path / METRICS
        kept = [record for record in read_metrics(file) if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        replace_durably(file, text.encode())

    def keep_dataset_description(self, data: Path) -> None:
        """Copy what rollouts need to know of the dataset: its description and its tasks.

        Raises:
            UserError: If the run was begun on another dataset.
        """
        kept = self.path / DATASET
        if kept.exists():
            then, now = (_description(folder) for folder in (kept, data))
            changed = differences(then, now)
            if changed:
                raise UserError(
                    f"data={data} is not the dataset that the run {self.path} was begun on "
                    f"({'; '.join(changed)}); give that one, or start anew with --overwrite"
                )
            return
        part = kept.with_name(DATASET + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in (INFO_FILE, TASKS_FILE):
            shutil.copyfile(data / name, part / name)
        part.rename(kept)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one record to metrics.jsonl."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def read_config(run: Path) -> dict[str, Any]:
    """The config that a run was begun with, as plain values.

    Raises:
        UserError: If there is none.
    """
    import yaml

    file = run / CONFIG
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{file} is missing or damaged; is {run} a run folder?") from error
    return content if isinstance(content, dict) else {}


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """What must not change between a run and its continuation.

    Where things lie, how they are logged and what computes them may; the dataset is compared by
    its content.
    """
    free = ("command", "data", "out", "resume", "overwrite", "device", "threads", "attention")
    kept = {k: v for k, v in config.items() if k not in free and not k.startswith("eval_")}
    logging = ("log_every", "eval_every", "checkpoint_every")
    settings = {k: v for k, v in config.get("settings", {}).items() if k not in logging}
    return kept | {"settings": settings}


def _is_ours(name: str) -> bool:
    """Whether a file of this name may lie in a run folder, a torn temporary one included."""
    ours = (CONFIG, METRICS, MADE_BY, DATASET, CHECKPOINTS)
    is_temporary = name.startswith(tuple(f"{own}." for own in ours))
    is_picture = name.startswith("rollout") and name.endswith(".png")
    return name in ours or is_temporary or is_picture


def describe_machine() -> dict[str, Any]:
    """Versions, commit and hardware, to be kept beside every result."""
    import numpy
    import torch

    import fastad

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "fastad": fastad.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _commit() -> str | None:
    """The commit of the source tree that runs, if it runs from one."""
    here = Path(__file__)
    # An installed copy may lie inside somebody else's repository, whose commit says nothing.
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    return _git(here.parent, "describe", "--always", "--dirty") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _description(folder: Path) -> dict[str, Any]:
    """What makes a dataset what it is, its tasks by their digest."""
    description: dict[str, Any] = json.loads((folder / INFO_FILE).read_text())
    del description["versions"]
    description["tasks"] = hashlib.sha256((folder / TASKS_FILE).read_bytes()).hexdigest()[:12]
    return description


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl in order, up to a last line that a kill tore."""
    records: list[dict[str, Any]] = []
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
    return records
