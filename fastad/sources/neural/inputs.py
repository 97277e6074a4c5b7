"""What a network sees of an observation: a vector, or an image."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.actions.gaussian import BOUNDLESS
from fastad.base.errors import UserError, unknown
from fastad.envs.base import BatchedEnv
from fastad.envs.family import TaskFamily
from fastad.sources.visited import Visited
from fastad.spaces import is_image, rows_first

# What the environment shows, or the codes of `TaskFamily.auxiliary_targets`, which it does not.
Sees = Literal["shown", "codes"]


class Inputs(ABC):
    """Turns observations into inputs of networks.

    Args:
        space: Of one observation, as histories store it.
        num_phases: 1 where the observation alone is Markov, see `Rules`.
        shape: Of an input.

    Attributes:
        num_phases: As given.
        shape: Of an input.
        typical_norm: Of an input, for the scale of the first layer.
        fact: What a learner is told by it that the environment does not show; "" if nothing.
        kept_size: Numbers that are kept of a step, to make its input again.
        kept_dtype: The smallest that keeps them without loss.
    """

    typical_norm: float
    fact = ""

    def __init__(self, space: spaces.Space[Any], num_phases: int, shape: tuple[int, ...]) -> None:
        assert space.shape is not None
        self.shape, self._stored_shape = shape, space.shape
        self.num_phases, self._has_phases = num_phases, num_phases > 1
        self.kept_size = math.prod(space.shape) + self._has_phases
        self.kept_dtype = _small_dtype(space)
        self._is_numbered = not isinstance(space, spaces.Box)

    @property
    def width(self) -> int:
        """How many numbers an input has."""
        return math.prod(self.shape)

    @abstractmethod
    def __call__(self, observation: Tensor, phase: Tensor) -> Tensor:
        """Inputs (n, *shape) float32 of observations (n, ...) in phases (n,)."""

    def of(self, visited: Visited) -> Tensor:
        """Inputs (N, T, *shape) float32 of everything visited."""
        inputs = self(visited.observation.flatten(0, 1), visited.phase.flatten())
        return inputs.view(*visited.phase.shape, *self.shape)

    def keep(self, observation: Tensor, phase: Tensor) -> Tensor:
        """What to keep of observations (n, ...) in phases (n,), (n, kept_size)."""
        kept = observation.reshape(len(observation), -1).to(self.kept_dtype)
        if self._has_phases:
            kept = torch.cat((kept, phase[:, None].to(self.kept_dtype)), dim=1)
        return kept

    def recall(self, kept: Tensor) -> Tensor:
        """The inputs (..., *shape) float32 of what was kept, (..., kept_size)."""
        rows = kept.flatten(0, -2)
        rows = rows.long() if self._is_numbered else rows
        observation, phase = rows, rows[:, 0]
        if self._has_phases:
            observation, phase = rows[:, :-1], rows[:, -1].long()
        inputs = self(observation.reshape(-1, *self._stored_shape), phase)
        return inputs.view(*kept.shape[:-1], *self.shape)


class Vectors(Inputs):
    """Observations as vectors: numbers one-hot, one block per coordinate.

    Vectors of a Box are scaled to [-1, 1] where it is bounded, else taken as they are. Where there
    are phases (see `Rules`), theirs is one block more.

    Args:
        space: Of one observation; see `suit`.
        num_phases: 1 where the observation alone is Markov.
        device: Of the observations.
    """

    def __init__(self, space: spaces.Space[Any], num_phases: int, device: torch.device) -> None:
        phases = [num_phases] if num_phases > 1 else []
        if isinstance(space, spaces.Box):
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            bounded = (np.maximum(np.abs(low), np.abs(high)) < BOUNDLESS) & (high > low)
            low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            self._centre, self._scale = (
                torch.tensor(values, dtype=torch.float32, device=device)
                for values in ((low + high) / 2, 2 / (high - low))
            )
            self._num_numbers, sizes = space.shape[0], phases
        else:
            self._num_numbers, sizes = 0, _sizes(space) + phases
        super().__init__(space, num_phases, (self._num_numbers + sum(sizes),))
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
        """See `Inputs`."""
        vectors = torch.zeros(len(observation), self.width, device=observation.device)
        index = phase[:, None] if self._has_phases else None
        if self._num_numbers > 0:
            numbers = (observation - self._centre) * self._scale
            vectors[:, : self._num_numbers] = numbers
        else:
            numbered = observation.reshape(len(observation), -1)
            index = numbered if index is None else torch.cat((numbered, index), dim=1)
        return vectors if index is None else vectors.scatter_(1, index + self._starts, 1.0)


class Codes(Inputs):
    """The codes that a family has of what it stores, one after another; see `auxiliary`.

    Args:
        family: That has them, and no phases.
    """

    def __init__(self, family: TaskFamily) -> None:
        codes = family.auxiliary()
        assert codes is not None
        super().__init__(family.spec().observation_space, 1, (sum(codes.values()),))
        self._codes = family.auxiliary_targets
        self._names = list(codes)
        self.typical_norm = math.sqrt(len(codes))
        *others, last = self._names
        names = f"{', '.join(others)} and {last}" if others else last
        self.fact = f"{names}, as codes"

    def __call__(self, observation: Tensor, phase: Tensor) -> Tensor:
        """See `Inputs`."""
        codes = self._codes(observation)
        return torch.cat([codes[name] for name in self._names], dim=-1)


class Images(Inputs):
    """What a family shows, as images (rows, columns, channels) of numbers from -1 to 1.

    Args:
        family: That shows uint8 images, and has no phases.
    """

    def __init__(self, family: TaskFamily) -> None:
        spec = family.spec()
        shape = (spec.shown_space or spec.observation_space).shape
        assert shape is not None
        super().__init__(spec.observation_space, 1, rows_first(shape))
        self._show = family.show
        self._has_channels_first = self.shape != tuple(shape)
        self.typical_norm = math.sqrt(self.width / 3)  # of pixels anywhere from -1 to 1

    def __call__(self, observation: Tensor, phase: Tensor) -> Tensor:
        """See `Inputs`."""
        image = self._show(observation)
        if self._has_channels_first:
            image = image.movedim(-3, -1)
        return image.contiguous().float().mul_(2 / 255).sub_(1)


def ways_to_see(env: BatchedEnv, *, images: bool) -> list[Sees]:
    """How networks can see an environment, the default first.

    Args:
        env: What there is to see.
        images: Whether the networks read images.
    """
    spec, is_markov = env.family.spec(), _num_phases(env) == 1
    ways: list[Sees] = []
    if is_markov and spec.shown_space is not None and env.family.auxiliary() is not None:
        ways.append("codes")
    shown = spec.shown_space or spec.observation_space
    if (spec.shown_space is None and Vectors.suit(shown)) or (
        is_markov and images and is_image(shown)
    ):
        ways.append("shown")
    return ways


def make_inputs(source: str, env: BatchedEnv, sees: Sees | None, *, images: bool = False) -> Inputs:
    """What the networks of a source get, which fits the environment.

    Args:
        source: Its name.
        env: What there is to see.
        sees: Option of the source; None is the first of `ways_to_see`.
        images: Whether the networks read images.

    Raises:
        UserError: If that is not to be seen, or not by these networks.
    """
    if sees is not None and sees not in get_args(Sees):
        raise unknown("sees", sees, get_args(Sees))
    ways, name = ways_to_see(env, images=images), env.family.name
    if sees is None:
        sees = ways[0]
    spec = env.family.spec()
    if sees == "codes":
        if sees not in ways:
            raise UserError(
                f"sees='codes' is not possible: env {name!r}, as it is set, has no codes of what "
                "it shows; use sees='shown'"
            )
        return Codes(env.family)
    if sees not in ways:
        raise UserError(
            f"sees='shown' is not possible: source {source!r} reads no images, and env {name!r} "
            f"shows {spec.shown_space}; use sees='codes', or a source that does, such as dqn"
        )
    if spec.shown_space is None and Vectors.suit(spec.observation_space):
        return Vectors(spec.observation_space, _num_phases(env), env.device)
    return Images(env.family)


def _num_phases(env: BatchedEnv) -> int:
    """See `Rules`; 1 where they are unknown."""
    rules = env.rules()
    return 1 if rules is None else rules.num_phases


def _sizes(space: spaces.Space[Any]) -> list[int]:
    """How many values each coordinate has."""
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    return [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()


def _small_dtype(space: spaces.Space[Any]) -> torch.dtype:
    """What keeps observations, and phases, in little room."""
    if isinstance(space, spaces.Box):
        return torch.uint8 if space.dtype == np.uint8 else torch.float32
    return torch.uint8 if max(_sizes(space)) <= 256 else torch.int32
