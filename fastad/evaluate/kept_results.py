"""Results that rollouts leave in their run, and finding one that answers the same question."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastad.base.errors import UserError
from fastad.base.outputs import write_result
from fastad.evaluate.result import Baseline, Result
from fastad.evaluate.task_set import TaskSet
from fastad.sources.registry import is_at_hand, source_class
from fastad.training.run_files import ROLLOUTS, run_of


def keep_result(folder: Path, result: Result) -> Path:
    """Write a result to the folder of a run's results, under a name of its own; returns the file.

    Raises:
        OSError: If it cannot be written.
    """
    control = "" if result.control == "none" else f"-{result.control}"
    stem = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{result.split}{control}"
    return write_result(folder, stem, result.to_json())


def kept_result(
    run: Path, *, updates: int | None, asked: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Result | None:
    """The newest result of a run from this very checkpoint and these settings, if there is one.

    Args:
        run: Run folder.
        updates: That the checkpoint is of; None is no checkpoint that could be told from another.
        asked: Settings of the rollout, as `Result.asked`.
        defaults: Those of settings that came after a result was kept.
    """
    if updates is None:
        return None
    for result in kept_results(run):
        # An earlier fastad did not tell what was asked.
        if result.asked and result.updates == updates and {**defaults, **result.asked} == asked:
            return result
    return None


def kept_baselines(run: Path, tasks: TaskSet) -> Mapping[str, Baseline] | None:
    """Who else was tried on the very tasks, as the newest result of a run holds it.

    None if there is no such result, or a source that needs no sparing: one without a loop of its
    own is quicker than any search.

    Args:
        run: Run folder, or a checkpoint in one.
        tasks: Those tasks, and the seed.
    """
    source = tasks.info.source
    if not (is_at_hand(source) and source_class(source).owns_loop):
        return None
    asked = tasks.split, tasks.seed, tasks.repeats
    for result in kept_results(run):
        had = result.split, result.seed, result.rollouts_per_task
        is_same = had == asked and np.array_equal(result.tasks, tasks.tasks.numpy())
        if is_same and "source" in result.baselines:
            return result.baselines
    return None


def kept_results(run: Path) -> Iterator[Result]:
    """Those that a run keeps, or the run of a checkpoint, the newest first."""
    for file in sorted((run_of(run) / ROLLOUTS).glob("*.json"), reverse=True):
        try:
            yield Result.load(file)
        except UserError:
            continue  # torn, or of an earlier fastad: nothing to go by
