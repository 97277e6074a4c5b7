"""`fastad demo`: all of Algorithm Distillation, end to end, in minutes."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastad.base.config import Track, check_seed


@dataclass(frozen=True)
class DemoConfig:
    """Collect learning histories, train on them, and watch frozen weights learn unseen tasks.

    Presets of minutes: dark-room (one), bandit, key-to-door and others; of hours: those that end
    with -full. `fastad presets` lists them. A demo that was interrupted goes on where it stopped;
    one that is finished shows its result again.
    """

    preset: str = "dark-room"
    """Which experiment."""
    seed: int = 0
    """Of the tasks, the histories, the weights and the rollouts."""
    out: Path | None = None
    """Folder for data, run and picture (default: runs/demo-PRESET-seedSEED)."""
    json: Path | None = None
    """Also write every figure here."""
    overwrite: bool = False
    """Delete what an earlier demo left in `out` and start anew."""
    threads: int | None = None
    """CPU threads (default: all cores)."""
    track: tuple[Track, ...] = ()
    """Where the training's log goes besides metrics.jsonl, as `fastad train --track`."""
    track_project: str | None = None
    """As `fastad train --track-project`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run the demo; returns every figure by name."""
    from fastad.base.device import choose_device
    from fastad.base.outputs import check_output, write_output
    from fastad.commands.collect import run_collect
    from fastad.commands.rollout import run_rollout
    from fastad.commands.train import run_train
    from fastad.evaluate.cache_comparison import compare_cache
    from fastad.evaluate.task_set import load_task_set
    from fastad.presets import preset
    from fastad.training.trackers import check_trackers

    chosen = preset(config.preset)
    if config.json is not None:
        check_output("json", config.json)
    check_trackers(config.track)
    device = choose_device("auto", config.threads)
    out = config.out or Path("runs") / f"demo-{config.preset}-seed{config.seed}"
    data = out / "data"
    began = time.perf_counter()
    print(f"{chosen.summary}\n")
    resume, overwrite = not config.overwrite, config.overwrite
    run_collect(
        replace(chosen.collect, out=data, seed=config.seed, resume=resume, overwrite=overwrite),
        is_part=True,
    )
    settings = replace(chosen.train.settings, seed=config.seed)
    run = run_train(
        replace(
            chosen.train, data=data, out=out / "run", settings=settings, threads=config.threads,
            resume=resume, overwrite=overwrite, track=config.track,
            track_project=config.track_project,
        ),
        is_part=True,
    )  # fmt: skip
    rollout = replace(
        chosen.rollout, run=run.path, seed=config.seed + 1, plot=out / "returns.png",
        threads=config.threads,
    )  # fmt: skip
    print(f"\ntrained in {run.train_seconds:.0f} s; the weights are frozen from here on\n")
    figures = run_rollout(rollout).to_json()
    tasks = load_task_set(
        run.path, split=rollout.split, num_tasks=rollout.tasks, repeats=rollout.rollouts_per_task,
        seed=rollout.seed,
    )  # fmt: skip
    figures |= {"train_seconds": run.train_seconds, "seed": config.seed}
    figures |= compare_cache(run.model(device), tasks, context=rollout.context)
    figures["wall_seconds"] = time.perf_counter() - began
    if config.json is not None:
        write_output(config.json, figures)
    _print_cache(figures)
    at_data, at_run = (shlex.quote(str(path)) for path in (data, run.path))
    print(
        f"\nnext{'' if shutil.which('fastad') else ' (after: source .venv/bin/activate)'}:\n"
        f"  fastad rollout {at_run} --control no-reward      # the reward hidden: no learning\n"
        f"  fastad rollout {at_run} --control wiped-context  # wiped at every episode: none\n"
        f"  fastad inspect {at_data} --tokens               # one learning history, step by step\n"
        f"  fastad train {at_data} --out runs/mine --num-layers 4 --positions rope"
    )
    return figures


def _print_cache(figures: dict[str, Any]) -> None:
    cached, uncached = figures["steps_per_second_cached"], figures["steps_per_second_uncached"]
    compared = figures["cache_comparison"]
    print(
        f"KV cache, {compared['environments']} environments, {compared['episodes']} episodes: "
        f"{cached:,.0f} steps/s with it, {uncached:,.0f} without ({cached / uncached:.0f}x); "
        f"{'the same' if figures['same_actions'] else 'DIFFERENT'} actions, logits differ by "
        f"{figures['max_logit_difference']:.1e} of the largest"
    )
