"""`fastad train`: learning histories to a run folder."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from fastad.base.launched import launched
from fastad.configs import TrainConfig

if TYPE_CHECKING:
    from fastad.training.run import Run

# Metrics that the progress bar has room for; all of them go to metrics.jsonl.
SHOWN = ("loss", "steps_per_second", "eval_first", "eval_last", "eval_regret")


def run_train(config: TrainConfig, *, is_part: bool = False) -> Run:
    """Train, show progress and say, unless it `is_part` of more, what is next."""
    from fastad.api import train
    from fastad.base.progress import reporting

    if launched().rank > 0:
        return train(config)  # the first rank shows how far they are
    # One line per step of the log, where there is no terminal.
    with reporting("updates", "train", interval=0.0) as report:

        def show(done: int, total: int, **metrics: Any) -> None:
            report(done, total, **{k: v for k, v in metrics.items() if k in SHOWN})

        run = train(config, progress=show)
    if not is_part:
        print(f"next: {shlex.join(['fastad', 'rollout', str(run.path)])}")
    return run
