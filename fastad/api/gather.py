"""What `collect` does with its config."""

import shlex
from pathlib import Path
from typing import Any

from torch import Tensor

from fastad.base.config import format_options, parse_options, typed
from fastad.base.progress import Report
from fastad.configs import CollectConfig
from fastad.histories import jobs
from fastad.histories.reader import HistoryDataset
from fastad.histories.schema import DatasetInfo


def gather(config: CollectConfig, progress: Report | None) -> HistoryDataset:
    """Collect the dataset, or what is missing of it."""
    return jobs.collect(
        config.folder,
        workers=config.workers,
        executor=config.executor,
        executor_options=parse_options("executor_options", config.executor_options),
        retries=config.retries,
        progress=progress,
        resume=config.resume,
        overwrite=config.overwrite,
        **_settings(config),
    )


def planned(config: CollectConfig) -> tuple[DatasetInfo, Tensor]:
    """What the dataset will be, and all its tasks, see `jobs.describe`; nothing is written.

    Raises:
        UserError: For settings that are not possible.
    """
    return jobs.describe(config.folder, resume=config.resume, **_settings(config))


def how_to_finish(data: Path, info: DatasetInfo) -> str:
    """The command that goes on with the collection of an unfinished dataset."""
    config = CollectConfig(
        out=data,
        env=info.env,
        env_options=format_options(info.env_kwargs),
        source=info.source,
        source_options=format_options(info.source_kwargs),
        num_histories=info.num_histories,
        num_episodes=info.num_steps // info.episode_length,
        num_train_tasks=info.num_train,
        num_validation_tasks=info.num_validation,
        num_test_tasks=info.num_test,
        holdout=info.holdout,  # type: ignore[arg-type]
        action_noise=info.action_noise,
        noise_labels=info.noise_labels,  # type: ignore[arg-type]
        labels=info.labels,  # type: ignore[arg-type]
        look_ahead=info.look_ahead or None,
        seed=info.seed,
        shards=info.num_shards,
        resume=True,
    )
    return shlex.join(["fastad", "collect", *typed(config, bare="out")])


def _settings(config: CollectConfig) -> dict[str, Any]:
    """What makes a dataset what it is, by the names that `jobs` has for it."""
    return {
        "env": config.env,
        "source": config.source,
        "num_histories": config.num_histories,
        "num_episodes": config.num_episodes,
        "num_train": config.num_train_tasks,
        "num_validation": config.num_validation_tasks,
        "num_test": config.num_test_tasks,
        "env_kwargs": parse_options("env_options", config.env_options),
        "source_kwargs": parse_options("source_options", config.source_options),
        "holdout": config.holdout,
        "seed": config.seed,
        "action_noise": config.action_noise,
        "noise_labels": config.noise_labels,
        "labels": config.labels,
        "look_ahead": config.look_ahead,
        "shards": config.shards,
    }
