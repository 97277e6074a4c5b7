"""Results that rollouts leave in their run, and finding one that answers the same question."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError
from fastad.base.outputs import write_result
from fastad.evaluate.result import Result
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
    for file in sorted((run_of(run) / ROLLOUTS).glob("*.json"), reverse=True):
        try:
            result = Result.load(file)
        except UserError:
            continue  # torn, or of an earlier fastad: nothing to go by
        # An earlier fastad did not tell what was asked.
        if result.asked and result.updates == updates and {**defaults, **result.asked} == asked:
            return result
    return None
