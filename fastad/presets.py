"""Settings that work, by name: what `--config NAME` and `fastad demo NAME` use."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastad.base.config import to_plain
from fastad.base.errors import UserError, unknown
from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
from fastad.model.config import ModelConfig
from fastad.training.settings import TrainSettings

CONFIGURED = ("collect", "train", "rollout")  # the commands that a preset has settings for


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


def _preset(
    name: str,
    summary: str,
    *,
    collect: CollectConfig,
    model: ModelConfig,
    settings: TrainSettings,
    rollout: RolloutConfig | None = None,
) -> Preset:
    """Fill in the paths that the three commands share."""
    data, run = Path("data") / name, Path("runs") / name
    return Preset(
        summary,
        replace(collect, out=data),
        TrainConfig(data=data, env=collect.env, model=model, settings=settings),
        replace(rollout or RolloutConfig(), run=run, env=collect.env),
    )


_DARK_ROOM = CollectConfig(
    env="dark-room",
    source="frontier",
    num_histories=3840,
    num_episodes=10,
    num_train_tasks=None,
    num_test_tasks=16,
    action_noise=0.05,
)

PRESETS = {
    "dark-room": _preset(
        "dark-room",
        "Dark Room: find an invisible goal, then go straight to it",
        collect=_DARK_ROOM,
        model=ModelConfig(context=200),
        settings=TrainSettings(updates=1300, eval_every=0),
    ),
    "key-to-door": _preset(
        "key-to-door",
        "Dark Key-to-Door: find an invisible key, then an invisible door",
        collect=CollectConfig(
            env="dark-key-to-door",
            source="frontier",
            num_histories=4096,
            num_episodes=8,
            num_train_tasks=None,
            num_test_tasks=64,
            action_noise=0.05,
        ),
        model=ModelConfig(context=400),
        settings=TrainSettings(updates=2500, batch_size=8, eval_every=0),
    ),
    "bandit": _preset(
        "bandit",
        "Gaussian bandit, 5 arms: explore, then pull the best arm",
        collect=CollectConfig(
            env="gaussian-bandit",
            env_options=("num_arms=5",),
            source="ucb1",
            num_histories=4096,
            num_episodes=200,
            num_train_tasks=4096,
            num_test_tasks=512,
        ),
        model=ModelConfig(context=200, episode_step=False),
        settings=TrainSettings(updates=1200, batch_size=24, eval_every=0),
    ),
    "dark-room-ucbvi": _preset(
        "dark-room-ucbvi",
        "Dark Room from optimistic value iteration, told only that rules are deterministic",
        collect=replace(
            _DARK_ROOM, source="ucbvi", num_histories=3840, num_episodes=20, action_noise=0.0
        ),
        model=ModelConfig(context=400),
        settings=TrainSettings(updates=18_000, batch_size=8, eval_every=2000),
    ),
    "paper-dark": _preset(
        "paper-dark",
        "Laskin et al. 2022: the paper's transformer and optimiser on Dark Room",
        collect=replace(
            _DARK_ROOM,
            source="actor-critic",
            num_histories=2048,
            num_episodes=160,
            action_noise=0.0,
        ),
        model=ModelConfig(
            num_layers=4,
            width=64,
            num_heads=4,
            mlp_width=2048,
            context=240,
            positions="learned",
            layout="interleaved",
            episode_step=False,
            norm="post",
            dropout=0.1,
            attention_dropout=0.5,
            token_mask=0.3,
        ),
        settings=TrainSettings(
            updates=50_000,
            batch_size=128,
            window=80,
            start="anywhere",
            target="sampled",
            optimizer="adamw",
            learning_rate=3e-4,
            final_learning_rate=2e-6 / 3e-4,
            decay="cosine",
            adam_betas=(0.9, 0.99),
            warmup_updates=1000,
            eval_every=2000,
            checkpoint_every=1000,
        ),
        rollout=RolloutConfig(episodes=4),
    ),
}


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        UserError: If there is none; the message proposes the nearest name.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def preset_for(name: str, command: str) -> Any:
    """The config that a preset has for one command.

    Raises:
        UserError: If the preset does not exist, or has none for this command.
    """
    chosen = preset(name)
    if command not in CONFIGURED:
        raise UserError(f"config={name}: presets configure collect, train and rollout only")
    return getattr(chosen, command)


def as_yaml(name: str) -> str:
    """A preset as YAML: a section for each command, which --config reads back as it was.

    Raises:
        UserError: If there is no such preset.
    """
    import yaml

    chosen = preset(name)
    configs = {command: getattr(chosen, command) for command in CONFIGURED}
    sections = {c: _without_off(to_plain(v), to_plain(type(v)())) for c, v in configs.items()}
    text: str = yaml.safe_dump(sections, sort_keys=False)
    return f"# {chosen.summary}\n{text}"


def _without_off(plain: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A config without what is off, and is so by default: nobody misses it in the file."""
    kept = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            kept[key] = _without_off(value, defaults[key])
        elif value != defaults[key] or not (value is None or value is False or value == []):
            kept[key] = value
    return kept
