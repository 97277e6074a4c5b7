"""`fastad rollout`: the frozen model learns unseen tasks in its context."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastad.base.errors import UserError
from fastad.configs import RolloutConfig

if TYPE_CHECKING:
    from fastad.evaluate.result import Result
    from fastad.reports.watch import Watch


def run_rollout(config: RolloutConfig) -> Result:
    """Roll out, write the figures, print a table, draw it."""
    from fastad.api import rollout
    from fastad.base.progress import reporting
    from fastad.evaluate.table import print_table

    results = _check_outputs(config)
    _say_if_older(config.run)
    quiet = replace(config, plot=None, json=None, watch=False)
    if config.watch:
        with _watch(config) as watch:
            result = rollout(config.run, quiet, on_block=watch)
            picture = _write_figures(config, results, result)  # before anybody stops watching
    else:
        with reporting("steps", "rollout") as report:
            result = rollout(config.run, quiet, progress=report)
        picture = _write_figures(config, results, result)
    print_table(result)
    result.plot(picture)
    print(f"picture: {picture}")
    return result


def _say_if_older(run: Path) -> None:
    """Say so where the newest checkpoint is not of the last update that was logged."""
    from fastad.training.checkpoint_folder import find_checkpoint
    from fastad.training.verify import updates_without_checkpoint

    if find_checkpoint(run) == run:  # a checkpoint or a model that was asked for by name
        return
    with suppress(UserError, OSError):  # a rollout needs no log
        behind = updates_without_checkpoint(run)
        if behind is not None:
            print(behind)


def _watch(config: RolloutConfig) -> Watch:
    """What plays a rollout in the terminal."""
    from rich.console import Console

    from fastad.evaluate.task_set import load_task_set
    from fastad.reports.watch import Watch
    from fastad.training.run_files import episodes_per_window

    tasks = load_task_set(
        config.run, split=config.split, num_tasks=config.tasks, repeats=config.rollouts_per_task,
        seed=config.seed,
    )  # fmt: skip
    episodes = config.episodes or episodes_per_window(config.run, tasks.info)
    return Watch(tasks, episodes, speed=config.watch_speed, console=Console())


def _check_outputs(config: RolloutConfig) -> Path | None:
    """Make sure that all results can be written, before any work is done for them.

    Returns:
        The run's folder of results; None if it cannot be written to and `json` stands in for it.
    """
    from fastad.base.outputs import check_folder, check_output
    from fastad.evaluate.plots import PICTURE_SUFFIXES, import_matplotlib
    from fastad.training.checkpoint_folder import find_checkpoint
    from fastad.training.run_files import ROLLOUTS, run_of

    import_matplotlib()
    if config.plot is not None:
        check_output("plot", config.plot, suffixes=PICTURE_SUFFIXES)
    if config.json is not None:
        check_output("json", config.json)
    results = run_of(find_checkpoint(config.run)) / ROLLOUTS
    try:
        check_folder(f"run={config.run}", results)
    except UserError as error:
        if config.json is None:
            raise UserError(f"{error}; or name a file for the results with --json") from error
        print(f"the run keeps no results ({error}); they go to {config.json}")
        return None
    return results


def _write_figures(config: RolloutConfig, results: Path | None, result: Result) -> Path:
    """Write the figures where they are kept and where the user wants them.

    Returns:
        Where the picture goes.
    """
    from fastad.evaluate.kept_results import keep_result

    if config.json is not None:
        result.save(config.json)
    if results is None:
        assert config.json is not None
        return config.plot or config.json.with_suffix(".png")
    kept = keep_result(results, result)
    print(f"results: {kept}")
    return config.plot or kept.with_suffix(".png")
