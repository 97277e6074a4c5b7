"""Minutes from collection to rollout, by sources that are told something and explore well.

What a source is told stands beside every result: `frontier` knows the movement rules, bandit
algorithms the kind of rewards. Presets of sources that begin with nothing are in `science.py`.
"""

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
HARD = replace(
    DARK_ROOM, env="dark-room-hard", num_histories=4096, num_episodes=30, num_test_tasks=32
)
# The source knows from the start what its actions do, the model has to find out: only much noise
# shows it what to do after a step that went elsewhere.
PERMUTED = replace(
    DARK_ROOM,
    env="dark-room-permuted",
    num_histories=6144,
    num_episodes=14,
    num_test_tasks=64,
    action_noise=0.3,
)
KEY_TO_DOOR = replace(
    DARK_ROOM, env="dark-key-to-door", num_histories=4096, num_episodes=8, num_test_tasks=64
)
GAUSSIAN = CollectConfig(
    env="gaussian-bandit",
    env_options=("num_arms=5",),
    source="ucb1",
    num_histories=4096,
    num_episodes=200,
    num_train_tasks=4096,
    num_test_tasks=512,
)
BERNOULLI = replace(GAUSSIAN, env="bernoulli-bandit")
ADVERSARIAL = replace(GAUSSIAN, env="adversarial-bandit", env_options=())
BANDIT_MODEL = ModelConfig(context=200, episode_step=False)
BANDIT_SETTINGS = TrainSettings(updates=1200, batch_size=24, eval_every=0)

QUICK = {
    "dark-room": make_preset(
        "dark-room",
        "Dark Room: find an invisible goal, then go straight to it; source told the rules",
        collect=DARK_ROOM,
        model=ModelConfig(context=200),
        settings=TrainSettings(updates=1300, eval_every=0),
    ),
    "dark-room-hard": make_preset(
        "dark-room-hard",
        "Dark Room Hard: 17 x 17 cells, pays once per episode; source told the rules",
        collect=HARD,
        model=ModelConfig(context=600),
        settings=TrainSettings(updates=1600, batch_size=8, eval_every=0),
    ),
    "dark-room-permuted": make_preset(
        "dark-room-permuted",
        "Dark Room Permuted: find out what actions do, and the goal; source told the rules",
        collect=PERMUTED,
        # What an action did shows in the step before, which has to be told from all others.
        model=ModelConfig(context=280, positions="rope"),
        settings=TrainSettings(updates=8000, eval_every=0),
    ),
    "key-to-door": make_preset(
        "key-to-door",
        "Dark Key-to-Door: find an invisible key, then a door; source told the rules",
        collect=KEY_TO_DOOR,
        model=ModelConfig(context=400),
        settings=TrainSettings(updates=2500, batch_size=8, eval_every=0),
    ),
    "bandit": make_preset(
        "bandit",
        "Gaussian bandit, 5 arms: explore, then pull the best arm",
        collect=GAUSSIAN,
        model=BANDIT_MODEL,
        settings=BANDIT_SETTINGS,
    ),
    "bernoulli-bandit": make_preset(
        "bernoulli-bandit",
        "Bernoulli bandit, 5 arms: explore, then pull the best arm",
        collect=BERNOULLI,
        model=BANDIT_MODEL,
        settings=BANDIT_SETTINGS,
    ),
    "adversarial-bandit": make_preset(
        "adversarial-bandit",
        "Adversarial bandit, 10 arms: odd arms are good in training, even ones in the test",
        collect=ADVERSARIAL,
        model=BANDIT_MODEL,
        settings=BANDIT_SETTINGS,
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
