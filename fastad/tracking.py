"""The run folder: what was run, what made it, and how it went."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fastad.config import differences, save_config, to_plain
from fastad.errors import UserError
from fastad.histories.schema import INFO_FILE, TASKS_FILE

CONFIG, METRICS, MADE_BY = "config.yaml", "metrics.jsonl", "made_by.json"
DATASET = "dataset"  # folder with the description of the dataset, without its histories


class RunFolder:
    """A folder that holds one training run.

    Args:
        path: Created if need be.
        config: The command's dataclass; its `resume`, `overwrite` and `out` are not settings.
        resume: Continue what is there, if anything.
        overwrite: Delete what is there.

    Raises:
        UserError: If the folder exists and neither was asked for, if it is no run folder, or if
            settings changed since the run began.
    """

    def __init__(self, path: Path, config: Any, *, resume: bool, overwrite: bool) -> None:
        self.path = path
        if path.exists():
            self._take_over(config, resume, overwrite)
        path.mkdir(parents=True, exist_ok=True)
        if not (path / CONFIG).exists():
            (path / MADE_BY).write_text(json.dumps(describe_machine(), indent=2))
            part = path / (CONFIG + ".part")
            save_config(part, "train", config)
            os.replace(part, path / CONFIG)

    def _take_over(self, config: Any, resume: bool, overwrite: bool) -> None:
        if not self.path.is_dir():
            raise UserError(f"out={self.path} is a file; choose a folder")
        is_run = (self.path / CONFIG).is_file()
        if not is_run and any(self.path.iterdir()) and not (self.path / MADE_BY).exists():
            raise UserError(f"out={self.path} exists and is not a run folder; choose another")
        if overwrite:
            shutil.rmtree(self.path)
        elif is_run and not resume:
            raise UserError(
                f"out={self.path} holds a run; continue it with --resume, or replace it with "
                "--overwrite"
            )
        elif is_run:
            self._check_unchanged(config)

    def _check_unchanged(self, config: Any) -> None:
        import yaml

        then = yaml.safe_load((self.path / CONFIG).read_text())
        changed = differences(settings_of(then), settings_of(to_plain(config)))
        if changed:
            raise UserError(
                f"--resume with changed settings ({'; '.join(changed)}); put them back, or start "
                "anew with --overwrite"
            )

    def forget_metrics_after(self, step: int) -> None:
        """Drop records beyond `step`, which a resumed run will write again."""
        file = self.path / METRICS
        kept = [record for record in read_metrics(file) if record["step"] <= step]
        file.write_text("".join(json.dumps(record) + "\n" for record in kept))

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


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    return {k: v for k, v in config.items() if k not in ("command", "out", "resume", "overwrite")}


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
    return _git(here.parent, "rev-parse", "--short", "HEAD") if tracked else None


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
