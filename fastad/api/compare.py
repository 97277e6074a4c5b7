"""The verb `compare`: the others for every method and seed, as far as they are not done."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fastad.api import collect, rollout, train
from fastad.api.fit import open_training
from fastad.api.plans import Experiment, episodes_of
from fastad.api.vary import Plan, check_tasks, plan_all
from fastad.base.config import with_settings
from fastad.base.device import choose_device
from fastad.base.errors import UserError, unknown
from fastad.base.files import as_json
from fastad.base.outputs import check_folder
from fastad.base.progress import Report, unwatched
from fastad.compare_config import CompareConfig
from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
from fastad.evaluate.comparison import Entry, Setting
from fastad.evaluate.comparison_families import families_of
from fastad.evaluate.comparison_files import Comparison
from fastad.evaluate.kept_results import keep_result, kept_result
from fastad.evaluate.result import Baseline
from fastad.training.checkpoint_folder import find_checkpoint, step_of
from fastad.training.run import Run
from fastad.training.run_files import ROLLOUTS, episodes_per_window
from fastad.training.trackers import check_trackers

OF_TASKS = ("seed", "split", "tasks", "rollouts_per_task")  # settings that source and chance have
# And what they have not of a dataset: on the same tasks they do the same, however many tasks got
# histories.
OF_HISTORIES = ("num_train", "num_validation", "num_histories", "num_shards", "policies",
                "look_ahead", "noise_labels")  # fmt: skip

_logger = logging.getLogger(__name__)

# Given a unit of work and what is under way, whom to report to for as long as it is.
Watch = Callable[[str, str], AbstractContextManager[Report]]


@contextmanager
def unwatching(unit: str, label: str) -> Iterator[Report]:
    """Watch nothing."""
    yield unwatched


@dataclass(frozen=True)
class _Trained:
    """A run to be rolled out: the name, seed and value of its line, its attention window then."""

    name: str
    seed: int
    run: Run
    context: int | None = None  # its own
    setting: Setting | None = None

    @property
    def title(self) -> str:
        return self.name if self.setting is None else f"{self.name}, {self.setting}"


def compare(
    what: Experiment | Run | str | Path | Sequence[Run | str | Path],
    config: CompareConfig | None = None,
    *,
    watch: Watch = unwatching,
    **settings: Any,
) -> Comparison:
    """Set methods beside each other, on the same tasks and over several seeds.

    Everything that a preset needs is collected, trained and rolled out in a folder, unless it is
    there already; what was stopped goes on. Runs that are there are rolled out as they are.

    >>> import fastad
    >>> comparison = fastad.compare("runs/room", episodes=3)
    >>> comparison.families[0].lines[0].label, comparison.families[0].seeds
    ('algorithm distillation', [0])
    >>> files = comparison.save("runs/comparison")

    Args:
        what: A preset, such as `fastad.preset("dark-room")`, or runs.
        config: Of what, and how often; the defaults if left out.
        watch: Shows how far the parts of the work are.
        **settings: Fields of `CompareConfig` that shall differ from `config`.

    Raises:
        UserError: For settings that are not possible; nothing has been written or deleted then.
    """
    config = with_settings(config or CompareConfig(), settings, "fastad.compare")
    choose_device(config.device, config.threads)
    check_trackers(config.track)
    known = get_args(get_type_hints(RolloutConfig)["control"])
    for control in config.controls:
        if control not in known or control == "none":
            raise unknown("controls", control, [name for name in known if name != "none"])
    if isinstance(what, Run | str | Path):
        what = [what]
    if isinstance(what, Sequence):
        runs = [run if isinstance(run, Run) else Run(run) for run in what]
        return _beside(_named(runs, config), RolloutConfig(), config, watch)
    preset = replace(what.rollout, episodes=episodes_of(what))
    return _beside(_train_all(what, config, watch), preset, config, watch)


def folder_of(experiment: Experiment, config: CompareConfig) -> Path:
    """Where a comparison of a preset lies."""
    return config.out or Path("runs") / f"compare-{experiment.rollout.run.name}"


def _train_all(experiment: Experiment, config: CompareConfig, watch: Watch) -> Iterator[_Trained]:
    """Every method and value with one seed, then with the next: a whole figure is there soon."""
    out = folder_of(experiment, config)
    check_folder(f"out={out}", out)
    plans, anew = plan_all(experiment, config), config.overwrite
    seeds = range(config.seed, config.seed + config.seeds)

    def data(plan: Plan, seed: int) -> str:
        return f"{plan.data}-seed{seed}" if config.data_per_seed else plan.data

    def collected(plan: Plan, seed: int) -> CollectConfig:
        return replace(
            plan.collect, out=out / data(plan, seed), seed=seed, workers=config.workers,
            resume=not anew, overwrite=anew,
        )  # fmt: skip

    def placed(plan: Plan, seed: int) -> TrainConfig:
        return replace(
            plan.train, data=out / data(plan, seed), out=out / f"{plan.title}-seed{seed}",
            settings=replace(plan.train.settings, seed=seed), device=config.device,
            threads=config.threads, resume=not anew, overwrite=anew, track=config.track,
            track_project=config.track_project,
        )  # fmt: skip

    place, total = 0, len(plans) * config.seeds
    for seed in seeds:
        if seed == config.seed or config.data_per_seed:
            datasets = {data(plan, seed): collected(plan, seed) for plan in plans}
            check_tasks(datasets, config.split)
            for name, dataset in datasets.items():
                with watch("steps", f"collect {name}") as report:
                    collect(dataset, progress=report)
        if seed == config.seed:
            for plan in plans:
                open_training(placed(plan, seed))  # what cannot be is refused before hours of work
        for plan in plans:
            place += 1
            with watch(
                "updates", f"train {plan.title}, seed {seed} ({place} of {total})"
            ) as report:
                run = train(placed(plan, seed), progress=report)
            yield _Trained(plan.name, seed, run, plan.context, plan.setting)


def _named(runs: Sequence[Run], config: CompareConfig) -> list[_Trained]:
    """Runs that are there, those that differ by their seeds alone under one name.

    Raises:
        UserError: If there is none, or one has no checkpoint.
    """
    for name in ("methods", "vary", "overwrite", "data_per_seed", "track"):
        if getattr(config, name):
            raise UserError(f"{name}={getattr(config, name)} is for presets; these are runs")
    if not runs:
        raise UserError("what= names no run; name runs that `fastad train` wrote, or a preset")
    names: dict[str, str] = {}
    trained = []
    for run in runs:
        find_checkpoint(run.path)
        check_folder(f"run={run.path}", run.path)
        updates = run.config["settings"]["updates"]
        if run.updates < updates:
            _logger.info(f"{run.path} is at update {run.updates} of {updates}, and compared so")
        name = names.setdefault(run.kind, run.path.resolve().name)
        trained.append(_Trained(name, run.seed, run))
    return trained


def _beside(
    trained: Iterable[_Trained], preset: RolloutConfig, config: CompareConfig, watch: Watch
) -> Comparison:
    """Roll out every run, the first of each environment under the controls as well."""
    firsts: dict[str, _Trained] = {}
    tried: dict[str, Mapping[str, Baseline]] = {}  # source and chance, by dataset, tasks and seed
    entries: list[Entry] = []
    for one in trained:
        info = one.run.dataset_info
        first = firsts.setdefault(_key(info.env, info.env_kwargs), one)
        asked = replace(
            preset,
            run=one.run.path,
            env=None,
            context=one.context,
            seed=one.seed,
            split=config.split,
            episodes=config.episodes
            or preset.episodes
            or episodes_per_window(first.run.path, first.run.dataset_info),
            rollouts_per_task=config.rollouts_per_task or preset.rollouts_per_task,
            device=config.device,
            threads=config.threads,
        )
        controls = config.controls if one.name == first.name else ()
        known = {k: v for k, v in info.settings().items() if k not in OF_HISTORIES}
        key = _key(known, [getattr(asked, name) for name in OF_TASKS])
        for control in ("none", *controls):
            hidden = with_settings(asked, {"control": control}, "fastad.compare")
            entries.append(_entry(one, hidden, tried.get(key), watch))
            tried.setdefault(key, entries[-1].result.baselines)
    return Comparison(tuple(families_of(entries)))


def _entry(
    one: _Trained,
    config: RolloutConfig,
    baselines: Mapping[str, Baseline] | None,
    watch: Watch,
) -> Entry:
    """A rollout, or the one that the run keeps of the same checkpoint and settings."""
    updates = step_of(find_checkpoint(one.run.path))
    hidden = "" if config.control == "none" else f", {config.control}"
    with watch("steps", f"rollout {one.title}, seed {one.seed}{hidden}") as report:
        result = kept_result(
            one.run.path, updates=updates, asked=config.asked, defaults=RolloutConfig().asked
        )
        if result is None:
            result = rollout(one.run, config, baselines=baselines, progress=report)
            keep_result(one.run.path / ROLLOUTS, result)
        else:
            steps = result.returns.size * one.run.dataset_info.episode_length
            report(steps, steps)
    return Entry(one.name, one.seed, result, one.run.train_seconds, one.setting)


def _key(*values: Any) -> str:
    return json.dumps(as_json(values), sort_keys=True)
