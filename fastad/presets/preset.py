"""What a preset is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
from fastad.model.config import ModelConfig
from fastad.training.settings import TrainSettings


@dataclass(frozen=True)
class Preset:
    """One experiment from collection to rollout.

    Attributes:
        summary: In one line.
        collect: How its histories are collected.
        train: How plain AD is trained on them.
        rollout: How it is rolled out.
        variants: Other ways to train on them, for `fastad compare`: settings that differ from
            `train`, by their bare names, under a name that a shell takes as it is.
    """

    summary: str
    collect: CollectConfig
    train: TrainConfig
    rollout: RolloutConfig
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def make_preset(
    name: str,
    summary: str,
    *,
    collect: CollectConfig,
    model: ModelConfig,
    settings: TrainSettings,
    data: Path | None = None,
    rollout: RolloutConfig | None = None,
    eval_episodes: int | None = None,
    eval_context: int | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Preset:
    """Fill in the paths that the three commands share; data are shared between presets if given."""
    data, run = data or Path("data") / name, Path("runs") / name
    return Preset(
        summary,
        replace(collect, out=data),
        TrainConfig(
            data=data,
            env=collect.env,
            model=model,
            settings=settings,
            eval_episodes=eval_episodes,
            eval_context=eval_context,
        ),
        replace(rollout or RolloutConfig(), run=run, env=collect.env),
        variants or {},
    )
