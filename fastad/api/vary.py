"""What a comparison trains: every method, with every value of the setting that is varied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, get_origin, get_type_hints

import torch

from fastad.api.gather import planned
from fastad.api.plans import Experiment, episode_length_of, labels_of, plans_of
from fastad.base.config import parse_options, with_settings
from fastad.base.errors import UserError, unknown
from fastad.compare_config import CompareConfig
from fastad.configs import CollectConfig, TrainConfig
from fastad.envs.family import Split
from fastad.evaluate.comparison import Setting

# Attention's context in episodes, in training and in rollouts: no setting, but what one means.
CONTEXT = "context_episodes"
# Settings that every comparison sets itself.
OWN = frozenset(("data", "out", "env", "method", "seed", "device", "threads", "workers", "resume",
                 "overwrite", "extend", "executor", "executor_options", "retries"))  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A method, or variant, with one value of the setting that is varied, if any is.

    Attributes:
        name: Of the method.
        setting: Its value; None where nothing is varied.
        title: Its name and value, that of its runs.
        collect: How its histories are collected.
        data: The name of that dataset.
        train: How it is trained.
        context: Its attention window in rollouts; None is as it was trained.
    """

    name: str
    setting: Setting | None
    title: str
    collect: CollectConfig
    data: str
    train: TrainConfig
    context: int | None


def plan_all(experiment: Experiment, config: CompareConfig) -> list[Plan]:
    """Every method of a preset, with every value of what is varied; see `plans_of`.

    The preset's own value has the names that it would have by itself.

    Raises:
        UserError: For what `plans_of` refuses, a setting that cannot be varied, or a value that it
            cannot have.
    """
    trains = plans_of(experiment, config.methods)
    plans = [
        _plan(experiment, name, train, setting)
        for name, train in trains.items()
        for setting in _values(config.vary)
    ]
    labels = labels_of(experiment, [plan.train for plan in plans])
    return [replace(plan, collect=replace(plan.collect, labels=labels)) for plan in plans]


def check_tasks(datasets: Mapping[str, CollectConfig], split: Split) -> None:
    """Refuse datasets that cannot be, or whose tasks for rollouts are not the same.

    Test tasks depend on seed and environment alone, see `split_tasks`: so values are compared on
    the same ones, however many tasks are trained on.

    Args:
        datasets: By name.
        split: From which the tasks are that are rolled out on.

    Raises:
        UserError: For the first such dataset; nothing has been written then.
    """
    tasks = {}
    for name, config in datasets.items():
        info, rows = planned(config)
        tasks[name] = rows[info.task_rows(split)]
    first = next(iter(tasks))
    for name, rows in tasks.items():
        if not torch.equal(rows, tasks[first]):
            raise UserError(
                f"split={split}: those tasks of {name} are not those of {first}, and only what is "
                "tried on the same tasks can be compared; vary something else, or --split test"
            )


def _plan(experiment: Experiment, name: str, train: TrainConfig, setting: Setting | None) -> Plan:
    collect, plain = experiment.collect, train
    changes = {} if setting is None else _changes(experiment, name, train, setting)
    if changes.keys() & _settings_of(CollectConfig):
        collect = with_settings(collect, changes, f"vary={setting}")
    else:
        train = with_settings(train, changes, f"vary={setting}")
    # The window of rollouts is for models of the preset's own shape, whatever is varied of it.
    is_own = plain.model == experiment.train.model and "context" not in changes
    return Plan(
        name,
        setting,
        name if (collect, train) == (experiment.collect, plain) else f"{name}-{setting}",
        collect,
        "data" if collect == experiment.collect else f"data-{setting}",
        train,
        experiment.rollout.context if is_own else None,
    )


def _changes(
    experiment: Experiment, name: str, train: TrainConfig, setting: Setting
) -> dict[str, Any]:
    """The settings that are others with a value."""
    if setting.name not in ("context", CONTEXT):
        return {setting.name: setting.value}
    if train.model.trunk == "gru":
        raise UserError(
            f"vary={setting}: {name} has no attention and so no context; name other --methods"
        )
    value = setting.value
    if setting.name == CONTEXT:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"vary={setting} must be a number of episodes above 0, such as 0.5")
        steps = max(1, round(value * episode_length_of(experiment)))
        value = steps * train.model.tokens_per_step
    # What is looked at while training looks back as far.
    return {"context": value, "eval_context": None}


def _values(text: str | None) -> list[Setting] | list[None]:
    """The values to vary, as they were typed: NAME=VALUE,VALUE; one None for nothing."""
    if text is None:
        return [None]
    name, _, words = text.partition("=")
    if not name or not all(words.split(",")):
        raise UserError(
            f"vary={text} is not of the form NAME=VALUE,VALUE, such as num_train_tasks=8,16,32"
        )
    _check_name(name)
    values = [parse_options("vary", [f"{name}={word}"])[name] for word in words.split(",")]
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"vary={text}: {value} is there twice; name it once")
    return [Setting(name, value) for value in values]


def _check_name(name: str) -> None:
    settings = _settings_of(CollectConfig) | _settings_of(TrainConfig)
    if name in OWN:
        raise UserError(
            f"vary={name} is no setting to vary: a comparison sets it itself; see its other options"
        )
    if get_origin(settings.get(name)) is tuple:
        raise UserError(
            f"vary={name} holds several values at once, and one is varied at a time; name a "
            "variant in a preset instead"
        )
    single = [name for name, kind in settings.items() if get_origin(kind) is not tuple]
    if name not in (*single, CONTEXT):
        raise unknown("setting to vary", name, {*single, CONTEXT} - OWN)


def _settings_of(kind: Any) -> dict[str, Any]:
    """The types of a config's settings by their bare names, those of nested ones included."""
    return dict(_walk(kind))


def _walk(kind: Any) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _walk(hint)
        else:
            yield name, hint
