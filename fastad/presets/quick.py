"""Minutes from collection to rollout, by sources that explore systematically."""

from dataclasses import replace

from fastad.configs import CollectConfig
from fastad.model.config import ModelConfig
from fastad.presets.preset import make_preset
from fastad.training.settings import TrainSettings

DARK_ROOM = CollectConfig(
    env="dark-room",
    source="frontier",
    num_histories=3840,
    num_episodes=10,
    num_train_tasks=None,
    num_test_tasks=16,
    action_noise=0.05,
)

QUICK = {
    "dark-room": make_preset(
        "dark-room",
        "Dark Room: find an invisible goal, then go straight to it",
        collect=DARK_ROOM,
        model=ModelConfig(context=200),
        settings=TrainSettings(updates=1300, eval_every=0),
    ),
    "key-to-door": make_preset(
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
    "bandit": make_preset(
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
    "dark-room-ucbvi": make_preset(
        "dark-room-ucbvi",
        "Dark Room from optimistic value iteration, told only that rules are deterministic",
        collect=replace(
            DARK_ROOM, source="ucbvi", num_histories=3840, num_episodes=20, action_noise=0.0
        ),
        model=ModelConfig(context=400),
        settings=TrainSettings(updates=18_000, batch_size=8, eval_every=2000),
    ),
}
