"""The verbs: what a program asks of fastad. The commands call them, too, and print.

They are quiet: what there is to say goes to the logger "fastad", how far they are to `progress`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastad.acting.interact import Transition
from fastad.api.act import act
from fastad.api.fit import fit
from fastad.api.gather import gather
from fastad.base.config import with_settings
from fastad.base.errors import UserError
from fastad.base.progress import Report
from fastad.base.trust import trusting
from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
from fastad.evaluate.result import Baseline, Result
from fastad.histories.reader import HistoryDataset
from fastad.training.run import Run


def collect(
    config: CollectConfig | None = None, *, progress: Report | None = None, **settings: Any
) -> HistoryDataset:
    """Let a source learn every task from scratch, and store its learning histories.

    >>> import fastad
    >>> dataset = fastad.collect(
    ...     out="data/room", env_options={"size": 3, "episode_length": 4}, num_histories=24,
    ...     num_episodes=5, num_test_tasks=2,
    ... )
    >>> dataset.num_histories, dataset.num_steps
    (24, 20)

    Args:
        config: What to collect, and where to; the defaults if left out.
        progress: Told the steps done and their total, of all histories together; those that look
            ahead take every step twice.
        **settings: Fields of `CollectConfig` that shall differ from `config`.

    Returns:
        The complete dataset.

    Raises:
        UserError: For settings that are not possible, or a folder that holds something else.
            Nothing has been written or deleted then.
    """
    config = with_settings(config or CollectConfig(), settings, "fastad.collect")
    return gather(config, progress)


def train(
    config: TrainConfig | None = None,
    *,
    data: HistoryDataset | str | Path | None = None,
    progress: Report | None = None,
    **settings: Any,
) -> Run:
    """Train a transformer on learning histories, from its newest checkpoint if there is one.

    >>> import fastad
    >>> run = fastad.train(data="data/room", out="runs/room", updates=40, width=16, context=20)
    >>> [record["step"] for record in run.metrics if "loss" in record]
    [20, 40]

    Args:
        config: What to train, and where to; the defaults if left out.
        data: The dataset, if not that of `config`.
        progress: Told the updates done, their total, and the metrics as they are logged.
        **settings: Fields of `TrainConfig`, `ModelConfig` and `TrainSettings` that shall differ
            from `config`, each by its bare name, as on the command line: `width=64, updates=300`.

    Raises:
        UserError: For settings that are not possible, data that do not fit them, or a folder that
            holds something else. Nothing has been written or deleted then.
    """
    if data is not None:
        settings["data"] = data.path if isinstance(data, HistoryDataset) else data
    config = config or TrainConfig.begin_with(settings)
    return fit(with_settings(config, settings, "fastad.train"), progress)


def rollout(
    run: Run | str | Path,
    config: RolloutConfig | None = None,
    *,
    actions: bool = False,
    baselines: Mapping[str, Baseline] | None = None,
    progress: Report | None = None,
    on_block: Callable[[Transition], None] | None = None,
    **settings: Any,
) -> Result:
    """Let a frozen model act on tasks of its dataset, in episode after episode.

    >>> import fastad
    >>> result = fastad.rollout("runs/room", episodes=3, rollouts_per_task=4)
    >>> result.returns.shape  # 4 rollouts on each of 2 test tasks, 3 episodes
    (8, 3)

    Args:
        run: Whose newest checkpoint acts: a run, its folder, or that of one of its checkpoints.
        config: On which tasks, and how; the defaults if left out.
        actions: Whether the result shall hold every action.
        baselines: Those of an earlier result on the very tasks with the same seed, of a run of the
            same dataset, which spares trying them again; they are tried if left out.
        progress: Told the steps taken and their total, of all environments together.
        on_block: Called with each episode's worth of transitions of all rollouts, (N, steps, ...).
        **settings: Fields of `RolloutConfig` that shall differ from `config`.

    Raises:
        UserError: For a run that is damaged, or settings that are not possible.
    """
    settings["run"] = run.path if isinstance(run, Run) else run
    named = [settings["env"]] if settings.get("env") else []  # by the program, and no file
    config = with_settings(config or RolloutConfig(), settings, "fastad.rollout")
    for name, method in (("plot", "plot"), ("json", "save")):
        if getattr(config, name) is not None:
            raise UserError(
                f"fastad.rollout writes no files, and {name}={getattr(config, name)} is one; "
                f"call {method} of the result that it returns"
            )
    if config.watch:
        raise UserError(
            "fastad.rollout draws nothing, and watch=True is for a terminal; use the command, or "
            "on_block"
        )
    with trusting(named):
        return act(
            config, keep_actions=actions, progress=progress, baselines=baselines, on_block=on_block
        )
