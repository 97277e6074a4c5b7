"""Distributions over actions, one per kind of action space: one choice for all who need one.

A source acts by one, histories store it, a model's head gives its parameters, and a loss compares
the two.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from fastad.actions.categorical import POLICY_TOLERANCE, Categorical, MultiCategorical
from fastad.actions.distribution import ActionDistribution
from fastad.actions.gaussian import DiagonalGaussian, is_bounded
from fastad.base.errors import UserError

__all__ = [
    "POLICY_TOLERANCE",
    "ActionDistribution",
    "Categorical",
    "DiagonalGaussian",
    "MultiCategorical",
    "distribution_over",
]


def distribution_over(space: spaces.Space[Any], *, squash: bool = False) -> ActionDistribution:
    """The distribution over the actions of a space.

    Args:
        space: Discrete, MultiDiscrete or a Box of vectors.
        squash: Of vectors: whether draws are squashed to a box, or clipped.

    Raises:
        UserError: If there is none.
    """
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == np.float32:
        if squash and not is_bounded(space.low, space.high):
            raise UserError(
                f"action_space={space} has no bounds, and actions cannot be squashed to it; use a "
                "source that clips them"
            )
        return DiagonalGaussian(space.low, space.high, squash=squash)
    if squash:
        raise UserError(f"action_space={space} is no box that actions could be squashed to")
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiCategorical(space.nvec)
    raise UserError(
        f"action_space={space} is not supported; use a Discrete space that starts at 0, a "
        "MultiDiscrete list of them, or a Box of float32 vectors"
    )
