"""Worlds that are no grids: pixels, and continuous actions.

Their sources are told much: `eliminate` its pose and the rules of Watermaze, `noise` everything. In
training the encoder of Watermaze's frames is told place and heading besides: without it, as earlier
experiments had it, returns fell over episodes after as long a training.
"""

from fastad.configs import CollectConfig
from fastad.model.config import ModelConfig
from fastad.presets.preset import make_preset
from fastad.training.settings import TrainSettings

SMALL_FRAMES = ("height=16", "width=24")

WATERMAZE = CollectConfig(
    env="watermaze",
    env_options=SMALL_FRAMES,
    source="eliminate",
    num_histories=2048,
    num_episodes=8,
    num_train_tasks=256,
    num_test_tasks=64,
    action_noise=0.05,
)
POINT_MASS = CollectConfig(
    env="point-mass",
    source="noise",
    source_options=("decay_fraction=0.75",),
    num_histories=2048,
    num_episodes=8,
    num_train_tasks=2048,
    num_test_tasks=64,
)

WORLDS = {
    "watermaze": make_preset(
        "watermaze",
        "Watermaze: find a hidden platform by frames of 16 x 24 pixels; source told its pose",
        collect=WATERMAZE,
        model=ModelConfig(context=400),
        settings=TrainSettings(updates=1000, auxiliary_weight=1.0, eval_every=0),
    ),
    "point-mass": make_preset(
        "point-mass",
        "Point mass: find a hidden goal by continuous moves; source told the goal",
        collect=POINT_MASS,
        model=ModelConfig(context=160),
        settings=TrainSettings(updates=3000, batch_size=16, eval_every=0),
    ),
}
