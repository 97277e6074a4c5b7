"""The learning rate over a fixed number of updates."""

import math

from fastad.training.settings import TrainSettings


def learning_rate_factor(update: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at `update`, counted from 0.

    Climbs linearly over the warm-up, then falls to `final_learning_rate` at the last update.
    """
    if update < settings.warmup_updates:
        return (update + 1) / settings.warmup_updates
    if settings.decay == "constant":
        return 1.0
    span = max(settings.updates - 1 - settings.warmup_updates, 1)
    done = min((update - settings.warmup_updates) / span, 1.0)
    left = 1.0 - done if settings.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.final_learning_rate + (1.0 - settings.final_learning_rate) * left
