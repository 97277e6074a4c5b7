"""Laskin et al. 2022 (arXiv 2210.14215) in the paper's size: transformer, optimiser, sources.

A3C learns the rooms, UCB1 the bandits. Each is hours on a GPU, and none has been run to its end
here. The paper's A3C has a hundred actors, the source's default is four: `--source-options
num_actors=100` has as many.
"""

from dataclasses import replace

from fastad.configs import CollectConfig, RolloutConfig
from fastad.model.config import ModelConfig
from fastad.presets.preset import Preset, make_preset
from fastad.presets.quick import (
    ADVERSARIAL,
    BERNOULLI,
    DARK_ROOM,
    GAUSSIAN,
    HARD,
    KEY_TO_DOOR,
    PERMUTED,
)
from fastad.training.settings import TrainSettings

EPISODES = 4  # of a room, in a window
SLOW = ("a3c", "dqn")
EVERY_KTH = 10  # of their episodes: four in a row would hardly show them learn


def _full(name: str, title: str, collect: CollectConfig, *, num_steps: int) -> Preset:
    """The paper's training on windows of `num_steps` steps, which learned positions end at."""
    return make_preset(
        name,
        f"{title}, plain AD in the paper's size: hours on a GPU",
        collect=collect,
        model=ModelConfig(
            num_layers=4,
            width=64,
            num_heads=4,
            mlp_width=2048,
            context=3 * num_steps,  # tokens: what was seen, done and got in each step
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
            window=num_steps,
            start="anywhere",
            every_kth_episode=EVERY_KTH if collect.source in SLOW else 1,
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
        rollout=RolloutConfig(episodes=EPISODES if collect.source in SLOW else num_steps),
    )


def _room(name: str, title: str, quick: CollectConfig, *, episode_length: int) -> Preset:
    collect = replace(quick, source="a3c", num_histories=2048, num_episodes=400, action_noise=0.0)
    return _full(name, f"{title} from A3C", collect, num_steps=EPISODES * episode_length)


def _bandit(name: str, title: str, quick: CollectConfig) -> Preset:
    return _full(name, f"{title} from UCB1", quick, num_steps=quick.num_episodes)


WATERMAZE_FULL = CollectConfig(
    env="watermaze",
    source="dqn",
    source_options=(
        "sees=shown",
        "learning_rate=0.001",
        "width=64",
        "steps_per_update=4",
    ),
    num_histories=4096,
    num_episodes=400,
    num_train_tasks=4096,
    num_test_tasks=64,
    shards=256,  # networks of convolutions, and what each remembers, take room
)

PAPER = {
    "dark-room-full": _room("dark-room-full", "Dark Room", DARK_ROOM, episode_length=20),
    "dark-room-hard-full": _room("dark-room-hard-full", "Dark Room Hard", HARD, episode_length=20),
    "dark-room-permuted-full": _room(
        "dark-room-permuted-full", "Dark Room Permuted", PERMUTED, episode_length=20
    ),
    "key-to-door-full": _room(
        "key-to-door-full", "Dark Key-to-Door", KEY_TO_DOOR, episode_length=50
    ),
    # From pixels, at this size never run to its end.
    "watermaze-full": _full(
        "watermaze-full",
        "Watermaze in frames of 72 x 96 from DQN that sees them",
        WATERMAZE_FULL,
        num_steps=EPISODES * 50,
    ),
    "bandit-full": _bandit("bandit-full", "Gaussian bandit", GAUSSIAN),
    "bernoulli-bandit-full": _bandit("bernoulli-bandit-full", "Bernoulli bandit", BERNOULLI),
    "adversarial-bandit-full": _bandit(
        "adversarial-bandit-full", "Adversarial bandit", ADVERSARIAL
    ),
}
