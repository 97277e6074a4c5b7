"""Laskin et al. 2022, in the paper's size."""

from dataclasses import replace

from fastad.configs import RolloutConfig
from fastad.model.config import ModelConfig
from fastad.presets.preset import make_preset
from fastad.presets.quick import DARK_ROOM
from fastad.training.settings import TrainSettings

PAPER = {
    "paper-dark": make_preset(
        "paper-dark",
        "Laskin et al. 2022: the paper's transformer and optimiser on Dark Room",
        collect=replace(
            DARK_ROOM,
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
