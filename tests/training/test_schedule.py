"""The learning rate, update by update."""

import pytest

from fastad.base.errors import UserError
from fastad.training.schedule import learning_rate_factor
from fastad.training.settings import TrainSettings


def factors(**settings):
    settings = TrainSettings(**settings)
    return [learning_rate_factor(update, settings) for update in range(settings.updates)]


def test_linear_decay_climbs_then_falls_to_its_end_at_the_last_update():
    got = factors(updates=8, warmup_updates=3, final_learning_rate=0.2)
    assert got == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_decay_is_half_way_in_the_middle():
    got = factors(updates=5, warmup_updates=0, decay="cosine", final_learning_rate=0.0)
    assert got == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466, 0.0])


def test_constant_stays_after_the_warm_up():
    assert factors(updates=4, warmup_updates=2, decay="constant") == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"updates": 0},
        {"batch_size": 0},
        {"clip": -1.0},
        {"learning_rate": 0.0},
        {"window": 0},
        {"final_learning_rate": 2.0},
    ],
)
def test_impossible_settings_name_the_field(settings):
    (field,) = settings
    with pytest.raises(UserError, match=f"{field}={settings[field]} must be"):
        TrainSettings(**settings)
