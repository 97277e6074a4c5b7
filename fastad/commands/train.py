"""`fastad train`: learning histories to a run folder."""

from __future__ import annotations

from typing import Any

from fastad.configs import TrainConfig

# Metrics that the progress bar has room for; all of them go to metrics.jsonl.
SHOWN = ("loss", "steps_per_second", "eval_first", "eval_last", "eval_regret")


def run_train(config: TrainConfig) -> float:
    """Train and show progress; returns the seconds spent on updates, evaluation excluded."""
    from fastad.api import train
    from fastad.base.progress import reporting

    # One line per step of the log, where there is no terminal.
    with reporting("updates", "train", interval=0.0) as report:

        def show(done: int, total: int, **metrics: Any) -> None:
            report(done, total, **{k: v for k, v in metrics.items() if k in SHOWN})

        return train(config, progress=show).train_seconds
