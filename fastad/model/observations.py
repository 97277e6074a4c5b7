"""From observations to features, by the space that they are of."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from fastad.base.errors import UserError
from fastad.model.kernels import Implementation, projection
from fastad.model.terms import Rows, add_up
from fastad.spaces import is_image, is_packed, leaves, read_leaves, rows_first

LARGEST_FLAT = (24, 32)  # rows and columns; images beyond them have an encoder of convolutions
MOST_FILTERS = 32
FARTHEST = 10.0  # in standard deviations; numbers beyond count as this far


class ObservationEncoder(nn.Module, ABC):
    """Maps observations (B, T, ...) to features (B, T, width)."""

    @abstractmethod
    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Encode; with impl="native" no row's bits depend on another, where C++ can be had."""

    def fit(self, observation: Tensor) -> None:
        """Learn the size of observations (n, ...), before anything else is learned."""


def observation_encoder(space: spaces.Space[Any], width: int) -> ObservationEncoder:
    """Choose how observations become features.

    Raises:
        UserError: If no encoder reads this space.
    """
    if isinstance(space, spaces.Discrete):
        return CoordinateEncoder(np.asarray([space.n]), width, first=int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return CoordinateEncoder(space.nvec.ravel(), width, num_axes=space.nvec.ndim)
    if isinstance(space, spaces.Box):
        if is_image(space) and not _is_small(space):
            return ImageEncoder(space.shape, width)
        return VectorEncoder(space.shape, width)
    if is_packed(space):
        return PackedEncoder(space, width)
    raise UserError(
        f"observation space {space} has no encoder; use Discrete, MultiDiscrete, a Box, or a Dict "
        "or Tuple of these"
    )


def _is_small(space: spaces.Box) -> bool:
    rows, columns, _ = rows_first(space.shape)
    return rows <= LARGEST_FLAT[0] and columns <= LARGEST_FLAT[1]


class CoordinateEncoder(ObservationEncoder):
    """One table per coordinate, summed.

    A single index per combination memorises its training goals; coordinates generalise.

    Args:
        sizes: (coordinates,), the values of each.
        width: Of a feature.
        first: The least value.
        num_axes: Of one observation's shape; 0 and 1 are told apart by themselves.
    """

    offsets: Tensor

    def __init__(self, sizes: np.ndarray, width: int, *, first: int = 0, num_axes: int = 1) -> None:
        super().__init__()
        self.num_axes = num_axes
        self.table = nn.Embedding(int(sizes.sum()), width)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) - first
        self.register_buffer("offsets", torch.as_tensor(offsets), persistent=False)

    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Embed (B, T) or (B, T, coordinates) integers as (B, T, width)."""
        return add_up([self.term(observation)], impl)

    def term(self, observation: Tensor) -> Rows:
        """The rows of them."""
        if observation.ndim == 2:
            observation = observation.unsqueeze(-1)
        elif self.num_axes > 1:
            observation = observation.flatten(2)
        return Rows(self.table.weight, observation.long() + self.offsets)


class Scale(nn.Module):
    """Brings numbers to mean 0 and deviation 1, each by its own; stored with the weights.

    Fitted once, on a sample, rather than while learning goes on: so the model that acts sees
    what the model that learned saw, and whoever resumes does, too.

    Args:
        shape: Of the numbers that have a scale of their own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, numbers: Tensor) -> Tensor:
        """Scale numbers (..., *shape) of any dtype; float32."""
        scaled = numbers.to(self.mean.dtype).sub(self.mean).div_(self.std)
        return scaled.clamp_(-FARTHEST, FARTHEST)

    def fit(self, numbers: Tensor) -> None:
        """Take mean and deviation of numbers (n, *shape); what never varies stays as it is."""
        std, mean = torch.std_mean(numbers.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std)))


class VectorEncoder(ObservationEncoder):
    """An MLP of one hidden layer over real numbers, or over a small image's pixels.

    Args:
        shape: Of one observation; flattened. () is one number.
        width: Of a feature.
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        size = math.prod(shape)
        self.scale = Scale((size,))
        self.up = nn.Linear(size, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Embed (B, T, *shape) as (B, T, width)."""
        x = self.scale(observation.reshape(*observation.shape[:2], -1))
        hidden = F.gelu(projection(x, self.up.weight, self.up.bias, impl=impl))
        return projection(hidden, self.down.weight, self.down.bias, impl=impl)

    def fit(self, observation: Tensor) -> None:
        """See `ObservationEncoder.fit`."""
        self.scale.fit(observation.reshape(len(observation), -1))


class ImageEncoder(ObservationEncoder):
    """Three convolutions, each of which halves the image, and a linear map.

    Args:
        shape: Of one image, uint8; channels first or last.
        width: Of a feature.
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        rows, columns, channels = rows_first(shape)
        self.has_channels_first = (rows, columns, channels) != tuple(shape)
        self.scale = Scale((channels, 1, 1))
        filters = (channels, MOST_FILTERS // 2, MOST_FILTERS, MOST_FILTERS)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 5 if index == 0 else 3, stride=2, padding=1)
            for index, (before, after) in enumerate(pairwise(filters))
        )
        with torch.no_grad():
            size = self._convolved(torch.zeros(1, channels, rows, columns)).numel()
        self.out = nn.Linear(size, width)

    def _convolved(self, image: Tensor) -> Tensor:
        for layer in self.layers:
            image = F.gelu(layer(image))
        return image

    def _channels_first(self, image: Tensor) -> Tensor:
        return image if self.has_channels_first else image.movedim(-1, -3)

    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Embed images (B, T, *shape) as (B, T, width)."""
        image = self.scale(self._channels_first(observation.flatten(0, 1)))
        features = self._convolved(image).flatten(1)
        out: Tensor = self.out(features).view(*observation.shape[:2], -1)
        return out

    def fit(self, observation: Tensor) -> None:
        """See `ObservationEncoder.fit`: one scale for each channel."""
        image = self._channels_first(observation)
        pixels = image.movedim(-3, -1).flatten(0, -2)[..., None, None]  # (n, channels, 1, 1)
        self.scale.fit(pixels)


class PackedEncoder(ObservationEncoder):
    """The sum of an encoder for each leaf of a Dict or Tuple, from their bytes.

    Args:
        space: The Dict or Tuple.
        width: Of a feature.
    """

    def __init__(self, space: spaces.Space[Any], width: int) -> None:
        super().__init__()
        self.layout = leaves(space)  # once: a rollout unpacks at every step
        self.parts = nn.ModuleList(observation_encoder(leaf.space, width) for leaf in self.layout)

    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Embed (B, T, bytes) as (B, T, width)."""
        values = read_leaves(self.layout, observation).values()
        parts = zip(self.parts, values, strict=True)
        return torch.stack([encode(value, impl) for encode, value in parts]).sum(dim=0)

    def fit(self, observation: Tensor) -> None:
        """See `ObservationEncoder.fit`."""
        values = read_leaves(self.layout, observation).values()
        for part, value in zip(self.parts, values, strict=True):
            assert isinstance(part, ObservationEncoder)
            part.fit(value)


class ShownEncoder(ObservationEncoder):
    """Encodes what is shown of an observation, such as the frame of a pose.

    Args:
        show: Of a `TaskFamily`, see there.
        encoder: Of what it shows.
    """

    def __init__(self, show: Callable[[Tensor], Tensor], encoder: ObservationEncoder) -> None:
        super().__init__()
        self.show, self.encoder = show, encoder

    def forward(self, observation: Tensor, impl: Implementation = "sdpa") -> Tensor:
        """Show (B, T, ...), and embed that."""
        with torch.no_grad():
            shown = self.show(observation)
        out: Tensor = self.encoder(shown, impl)
        return out

    def fit(self, observation: Tensor) -> None:
        """See `ObservationEncoder.fit`."""
        self.encoder.fit(self.show(observation))
