"""`fastad collect`: a source learns many tasks; its learning histories are stored."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from fastad.configs import CollectConfig

if TYPE_CHECKING:
    from fastad.histories.reader import HistoryDataset

AVERAGED_HISTORIES = 1024  # in the summary


def run_collect(config: CollectConfig, *, is_part: bool = False) -> None:
    """Collect, show progress, say what came of it and, unless it `is_part` of more, what next."""
    from fastad.api import collect
    from fastad.base.progress import reporting

    with reporting("steps", "collect") as report:
        dataset = collect(config, progress=report)
    print_summary(dataset)
    if not is_part:
        print(f"next: {shlex.join(['fastad', 'train', *_what_to_train(config)])}")


def print_summary(dataset: HistoryDataset) -> None:
    """Say what the dataset holds."""
    import numpy as np
    import torch

    from fastad.envs.registry import make_family

    info = dataset.info
    # Histories visit the tasks in turn: whole rounds show every task equally often.
    rounds = max(1, AVERAGED_HISTORIES // info.num_train)
    histories = np.arange(min(info.num_histories, rounds * info.num_train, AVERAGED_HISTORIES))
    returns = dataset.returns(histories, max_histories=len(histories)).mean
    tasks = torch.from_numpy(dataset.tasks[dataset.task_ids[histories]])
    env = make_family(info.env, **info.env_kwargs).make(tasks, torch.Generator())
    optimal = env.optimal_return()
    optimum = "" if optimal is None else f"; optimum {optimal.mean().item():.2f}"
    noise = ""
    if info.action_noise:
        noise = f" with {info.action_noise:.0%} random actions, labels {info.noise_labels}"
    print(
        f"{dataset.path}: {info.num_histories:,} histories of {info.num_steps:,} steps, {info.env} "
        f"learned by {info.source}{noise}; tasks: {info.num_train:,} train, "
        f"{info.num_validation:,} validation, {info.num_test:,} test\n"
        f"mean return: {returns[0]:.2f} in the first episode, {returns[-1]:.2f} in the last"
        f"{optimum}"
    )
    if info.source_knows:
        print(f"source knows: {info.source_knows}")


def _what_to_train(config: CollectConfig) -> list[str]:
    """The data, and the preset that they were collected by: it has settings to train with, too."""
    from fastad.presets import PRESETS

    where = {"out": None, "seed": 0, "shards": None, "workers": 1}
    asked = replace(config, **where, resume=False, overwrite=False)  # type: ignore[arg-type]
    for name, preset in PRESETS.items():
        if replace(preset.collect, out=None) == asked:
            return [str(config.folder), "--config", name]
    return [str(config.folder)]
