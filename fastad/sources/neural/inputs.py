"""What a network sees of an observation: a vector."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.sources.visited import Visited


class Inputs:
    """Turns observations into vectors: numbers one-hot, one block per coordinate.

    Vectors of a Box are scaled to [-1, 1] where it is bounded, else taken as they are. Where there
    are phases (see `Rules`), theirs is one block more.

    Args:
        space: Of one observation; see `suit`.
        num_phases: 1 where the observation alone is Markov.
        device: Of the observations.

    Attributes:
        width: Length of the vectors.
        typical_norm: Of the vectors, for the scale of the first layer.
        dtype: The smallest that keeps the vectors without loss.
    """

    def __init__(self, space: spaces.Space[Any], num_phases: int, device: torch.device) -> None:
        phases = [num_phases] if num_phases > 1 else []
        self._has_phases = num_phases > 1
        if isinstance(space, spaces.Box):
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
            low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            self._centre, self._scale = (
                torch.tensor(values, dtype=torch.float32, device=device)
                for values in ((low + high) / 2, 2 / (high - low))
            )
            self._num_numbers, sizes = space.shape[0], phases
        else:
            assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
            nvec = [space.n] if isinstance(space, spaces.Discrete) else space.nvec
            self._num_numbers, sizes = 0, [int(size) for size in nvec] + phases
        self.dtype = torch.float32 if self._num_numbers > 0 else torch.uint8
        self.width = self._num_numbers + sum(sizes)
        self.typical_norm = math.sqrt(self._num_numbers + len(sizes))
        starts = [self._num_numbers + sum(sizes[:block]) for block in range(len(sizes))]
        self._starts = torch.tensor(starts, dtype=torch.int64, device=device)

    @staticmethod
    def suit(space: spaces.Space[Any]) -> bool:
        """Whether observations of this space can be turned into vectors."""
        if isinstance(space, spaces.Box):
            return len(space.shape) == 1
        if isinstance(space, spaces.Discrete):
            return bool(space.start == 0)
        return isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1

    def __call__(self, observation: Tensor, phase: Tensor) -> Tensor:
        """Vectors (n, width) float32 of observations (n, ...) in phases (n,)."""
        vectors = torch.zeros(len(observation), self.width, device=observation.device)
        index = phase[:, None] if self._has_phases else None
        if self._num_numbers > 0:
            numbers = (observation - self._centre) * self._scale
            vectors[:, : self._num_numbers] = numbers
        else:
            numbered = observation.reshape(len(observation), -1)
            index = numbered if index is None else torch.cat((numbered, index), dim=1)
        return vectors if index is None else vectors.scatter_(1, index + self._starts, 1.0)

    def of(self, visited: Visited) -> Tensor:
        """Vectors (N, T, width) float32 of everything visited."""
        vectors = self(visited.observation.flatten(0, 1), visited.phase.flatten())
        return vectors.view(*visited.phase.shape, self.width)
