"""Algorithm Distillation from sources that begin with nothing, as the paper has it, in minutes.

Laskin et al. 2022 (arXiv 2210.14215) distil A3C. Each preset trains plain AD on every k-th episode
of such a source; its variants say what they change: which episodes windows show, and whose
distribution is learned. Chosen on validation tasks.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fastad.configs import CollectConfig, RolloutConfig
from fastad.model.config import ModelConfig
from fastad.presets.preset import Preset, make_preset
from fastad.presets.worlds import SMALL_FRAMES
from fastad.training.settings import TrainSettings

SHOWN, ROLLED_OUT = 20, 60  # episodes of a training window, and of a rollout by default
CUT = (0.16, 0.5)  # where the early part of a history ends, and its late part begins


def _variants(
    episode_length: int, num_layers: int, cut: tuple[float, float]
) -> dict[str, dict[str, Any]]:
    """Other ways to train, under names that a shell takes as they are.

    The decision transformer sees an episode at most, as published: through all layers together, or
    it would learn in context from the returns that it is shown.
    """
    an_episode = {"window": episode_length, "context": episode_length // num_layers}
    parts: dict[str, Any] = {"subsample": "cut", "cut": cut, "every_kth_episode": 1}
    return {
        "ad-cut": parts,
        "ad-look-ahead": parts | {"target": "final"},
        "decision-transformer": an_episode | {"every_kth_episode": 1, "eval_context": None},
    }


def _from_scratch(
    name: str,
    title: str,
    collect: CollectConfig,
    *,
    episode_length: int,
    shown: int = SHOWN,
    rolled_out: int = ROLLED_OUT,
    looked_back_on: int = ROLLED_OUT,
    positions: Literal["none", "rope"] = "none",
    cut: tuple[float, float] = CUT,
    **settings: Any,
) -> dict[str, Preset]:
    """Two presets of one dataset: plain AD with its variants, and AD from look-ahead labels.

    Plain AD is shown every k-th episode of a history, so that windows, of `shown` episodes, show
    all of its learning. Rollouts are of `rolled_out` episodes and look back on `looked_back_on`.
    """
    num_steps = shown * episode_length
    plain = TrainSettings(
        window=num_steps, every_kth_episode=collect.num_episodes // shown, **settings
    )
    model = ModelConfig(context=num_steps, positions=positions)
    context = looked_back_on * episode_length
    shared: dict[str, Any] = {
        "collect": collect,
        "data": Path("data") / name,
        "model": model,
        "eval_episodes": min(ROLLED_OUT, rolled_out),
        "eval_context": context,
        "rollout": RolloutConfig(episodes=rolled_out, context=context),
    }
    ahead = f"{name}-look-ahead"
    variants = _variants(episode_length, model.num_layers, cut)
    return {
        name: make_preset(
            name,
            f"{title}, plain AD",
            settings=plain,
            variants=variants,
            **shared,
        ),
        ahead: make_preset(
            ahead,
            f"{title}, look-ahead labels: what the same learner does at its end",
            settings=replace(plain, **variants["ad-look-ahead"]),
            **shared,
        ),
    }


def _dark_room(
    source: str,
    title: str,
    *,
    num_histories: int = 2048,
    updates: int = 1200,
    rolled_out: int = ROLLED_OUT,
    cut: tuple[float, float] = CUT,
    **collect: Any,
) -> dict[str, Preset]:
    """Rollouts look back on all of themselves; searching for a goal may take most of one."""
    histories = CollectConfig(
        env="dark-room",
        source=source,
        num_histories=num_histories,
        num_episodes=100,
        labels=("final", "expert"),
        **collect,
    )
    return _from_scratch(
        f"dark-room-{source}",
        f"Dark Room from {title}",
        histories,
        episode_length=20,
        rolled_out=rolled_out,
        looked_back_on=rolled_out,
        updates=updates,
        cut=cut,
    )


def _key_to_door() -> dict[str, Preset]:
    """Whether the key is held shows in this episode's rewards alone: RoPE tells them from others'.

    Without it a tenth of the episodes fails after ten of them, and up to half after sixty.
    """
    histories = CollectConfig(
        env="dark-key-to-door",
        source="a2c",
        num_histories=1024,
        num_episodes=300,
        num_test_tasks=64,
        labels=("final", "expert"),
    )
    return _from_scratch(
        "key-to-door-a2c",
        "Dark Key-to-Door from A2C",
        histories,
        episode_length=50,
        rolled_out=150,  # after 60 it is still finding cells
        looked_back_on=SHOWN,
        positions="rope",
        cut=(0.05, 0.5),
        updates=3600,
        batch_size=5,
    )


def _watermaze() -> dict[str, Preset]:
    """The source is told codes of its pose, and so is the encoder in training; nobody is told more.

    Frames are of 16 x 24 pixels.
    """
    histories = CollectConfig(
        env="watermaze",
        env_options=SMALL_FRAMES,
        source="dqn",
        source_options=("learning_rate=0.003", "width=64", "num_layers=2"),
        num_histories=128,
        num_episodes=150,
        num_train_tasks=64,
        num_test_tasks=64,
        labels=("final",),
    )
    return _from_scratch(
        "watermaze-dqn",
        "Watermaze from DQN, which is told its pose",
        histories,
        episode_length=50,
        shown=10,
        rolled_out=20,
        looked_back_on=10,
        updates=1000,
        batch_size=8,
        auxiliary_weight=1.0,
    )


# Optimism that wears off only where every step may pay.
OPTIMISM = ("learning_rate=0.6", "initial_value=4", "temperature=0.1")

SCIENCE = {
    **_dark_room("a2c", "A2C"),
    # It learns later than A2C: so does its late part begin, and so long are rollouts.
    **_dark_room("a3c", "A3C, the paper's source", updates=1600, rolled_out=100, cut=(0.16, 0.7)),
    # It is the slowest to collect.
    **_dark_room("dqn", "DQN", num_histories=1024, updates=1600, rolled_out=80),
    **_dark_room("q-learning", "Q-learning", source_options=OPTIMISM),
    **_key_to_door(),
    **_watermaze(),
}
