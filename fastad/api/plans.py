"""How a comparison trains each method of a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from fastad.base.config import parse_options, with_settings
from fastad.base.errors import UserError, unknown
from fastad.configs import DEFAULTS, CollectConfig, RolloutConfig, TrainConfig
from fastad.envs.registry import make_family
from fastad.methods.registry import METHODS

END = 4  # the part of a history that is its end: the last quarter


class Experiment(Protocol):
    """What a `fastad.Preset` is, as far as a comparison asks."""

    @property
    def collect(self) -> CollectConfig: ...  # noqa: D102

    @property
    def train(self) -> TrainConfig: ...  # noqa: D102

    @property
    def rollout(self) -> RolloutConfig: ...  # noqa: D102

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]: ...  # noqa: D102


def plans_of(experiment: Experiment, names: Sequence[str] = ()) -> dict[str, TrainConfig]:
    """How the named methods and variants are trained, in this order; all there are by default.

    A method is trained as the preset trains plain AD, but for what it cannot share; one that reads
    no histories by its own defaults. A variant changes what the preset says of it, also where it
    has the name of a method. dpt is trained where it is named, here or as a variant.

    Raises:
        UserError: For a name that is neither, or stands there twice, or settings that cannot be.
    """
    known: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS}
    for name, changes in experiment.variants.items():
        known[name] = known.get(name, {}) | dict(changes)
    for name in names:
        if name not in known:
            raise unknown("methods", name, known)
        if names.count(name) > 1:
            raise UserError(f"methods={' '.join(names)}: {name} is there twice; name it once")
    # Unless a preset says so its data lack an expert's labels.
    names = names or [name for name in known if name != "dpt" or name in experiment.variants]
    return {name: _plan(name, known[name], experiment) for name in names}


def _plan(name: str, changes: dict[str, Any], experiment: Experiment) -> TrainConfig:
    """The preset's training with changes; of a method that reads no histories, its own."""
    plain, method = experiment.train, changes.get("method", "ad")
    if method == "rl2":
        plain = replace(DEFAULTS["rl2"], env=plain.env, kernels=plain.kernels)
    changes = _changes(method, experiment) | changes
    return with_settings(plain, changes, f"the preset's {name}")


def episodes_of(experiment: Experiment) -> int:
    """Episodes of a rollout: as the preset has it, or as many as a window of plain AD shows."""
    if experiment.rollout.episodes is not None:
        return experiment.rollout.episodes
    settings, num_episodes = experiment.train.settings, experiment.collect.num_episodes
    if settings.window is None:
        return num_episodes // settings.every_kth_episode
    return max(1, settings.window // _episode_length(experiment))


def _changes(method: str, experiment: Experiment) -> dict[str, Any]:
    """What a method cannot share with plain AD."""
    changes: dict[str, Any] = {}
    if method == "expert-distillation":
        # The source as it ended: the whole history is what it has not to see.
        episodes = max(1, experiment.collect.num_episodes // END)
        changes |= {"start": "history", "subsample": "every-kth", "every_kth_episode": 1,
                    "window": episodes * _episode_length(experiment)}  # fmt: skip
    if method == "decision-transformer":
        changes |= {"start": "anywhere", "subsample": "every-kth", "target": "sampled"}
    if method == "dpt":
        changes |= {"target": "expert"}
    return changes


def _episode_length(experiment: Experiment) -> int:
    collect = experiment.collect
    options = parse_options("env_options", collect.env_options)
    return make_family(collect.env, **options).spec().episode_length
