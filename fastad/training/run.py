"""A run, to be looked into and to be rolled out."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastad.base.errors import UserError
from fastad.base.files import as_json
from fastad.histories.reader import load_description
from fastad.histories.schema import DatasetInfo
from fastad.model.sequence_model import SequenceModel
from fastad.training.checkpoint import load_model
from fastad.training.checkpoint_folder import list_checkpoints
from fastad.training.model_files import is_model_folder, read_model_config
from fastad.training.run_files import (
    CONFIG,
    DATASET,
    METRICS,
    check_run,
    missing_run,
    read_config,
    read_made_by,
    read_metrics,
    settings_of,
)


class Run:
    """A run folder, what `train` leaves behind, finished or not; or a model's, of `convert`.

    >>> import fastad
    >>> run = fastad.Run("runs/room")
    >>> run.updates, run.config["model"]["width"], run.model().actions.num_params
    (40, 16, 5)

    Args:
        path: The folder.

    Raises:
        UserError: If it is no run, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise missing_run(self.path)
        if is_model_folder(self.path):
            read_model_config(self.path)
        elif not (self.path / CONFIG).is_file():
            raise UserError(
                f"run={path} holds no {CONFIG}; name a folder that `fastad train` wrote"
            )
        check_run(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the run was begun with: the fields of `TrainConfig`, as plain values."""
        return read_config(self.path)

    @cached_property
    def made_by(self) -> dict[str, Any]:
        """Versions, hardware, and what decides the bits."""
        return read_made_by(self.path)

    @cached_property
    def dataset_info(self) -> DatasetInfo:
        """What the dataset is that the run is trained on: environment, source, tasks."""
        return load_description(self.path / DATASET)[0]

    @cached_property
    def train_tasks(self) -> np.ndarray:
        """The tasks of the dataset that it is trained on, (num_train, K)."""
        info, tasks = load_description(self.path / DATASET)
        trained: np.ndarray = tasks[info.task_rows("train")]
        return trained

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.config["settings"]["seed"])

    @property
    def kind(self) -> str:
        """What runs that differ in nothing but their seed have in common."""
        settings = {k: v for k, v in settings_of(self.config).items() if k != "seed"}
        # Another seed may have split the tasks otherwise, and collected other histories.
        told = [settings, self.dataset_info.settings() | {"seed": 0}]
        return json.dumps(as_json(told), sort_keys=True)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The log so far, a record per line, each with its "step": updates done."""
        return read_metrics(self.path / METRICS)

    @property
    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return list_checkpoints(self.path)

    @property
    def train_seconds(self) -> float:
        """Spent on updates up to the newest record, evaluation excluded, over all sessions."""
        return float(self._newest["train_seconds"])

    @property
    def updates(self) -> int:
        """Done up to the newest record."""
        return int(self._newest["step"])

    @property
    def _newest(self) -> dict[str, Any]:
        """The newest record of updates, evaluations left out."""
        if is_model_folder(self.path):
            kept = read_model_config(self.path)
            # Checkpoints of earlier versions do not tell their update.
            step = kept["updates"] or 0
            return {"step": step, "loss": None, "train_seconds": kept["train_seconds"]}
        updates = [record for record in self.metrics if "loss" in record]
        return updates[-1] if updates else {"step": 0, "loss": None, "train_seconds": 0.0}

    def model(self, device: torch.device | str = "cpu") -> SequenceModel:
        """The model of the newest checkpoint, in evaluation mode, its weights frozen.

        Raises:
            UserError: If there is no checkpoint yet, or it is damaged.
        """
        return load_model(self.path).to(device).requires_grad_(False)

    def summary(self) -> dict[str, Any]:
        """How far it is, what it trains, and how its rollouts went, as plain JSON values."""
        info, newest = self.dataset_info, self._newest
        return {
            "path": str(self.path),
            "config": self.config,
            "made_by": self.made_by,
            "env": info.env,
            "env_kwargs": info.env_kwargs,
            "source": info.source,
            "source_kwargs": info.source_kwargs,
            "source_knows": info.source_knows,
            "num_tasks": info.num_tasks,
            "updates_done": newest["step"],
            "loss": newest["loss"],
            "train_seconds": newest["train_seconds"],
            "eval_last": [record["eval_last"] for record in self.metrics if "eval_last" in record],
            "checkpoints": [checkpoint.name for checkpoint in self.checkpoints],
        }
