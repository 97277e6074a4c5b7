"""Dictionaries for Stable-Baselines3's networks, with images of any size in them."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

LEAST_SIDE = 36  # of images that its convolutions take


def has_small_images(space: spaces.Space[object]) -> bool:
    """Whether a space is a Dict with an image that `NatureCNN` is too deep for."""
    return isinstance(space, spaces.Dict) and any(map(_is_small_image, space.values()))


class Parts(BaseFeaturesExtractor):
    """As `CombinedExtractor`: images by convolutions, the rest as it is, one after another.

    But the pixels of an image that is too small for those are read as a vector, brought to mean 0
    and deviation 1 together: some environments, MiniGrid's among them, use a few of 256 values.

    Args:
        observation_space: A Dict.
        cnn_output_dim: Features of a large image.
    """

    def __init__(self, observation_space: spaces.Dict, cnn_output_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim=1)
        readers: list[nn.Module] = []
        self._features_dim, self._names = 0, list(observation_space)
        for space in observation_space.values():
            if is_image_space(space) and not _is_small_image(space):
                assert isinstance(space, spaces.Box)
                readers.append(NatureCNN(space, cnn_output_dim))
                self._features_dim += cnn_output_dim
                continue
            size = get_flattened_obs_dim(space)
            scale = nn.LayerNorm(size) if _is_small_image(space) else nn.Identity()
            readers.append(nn.Sequential(nn.Flatten(), scale))
            self._features_dim += size
        # In a list: names may hold dots.
        self.readers = nn.ModuleList(readers)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features (B, features_dim)."""
        parts = zip(self._names, self.readers, strict=True)
        return torch.cat([read(observations[name]) for name, read in parts], dim=1)


def _is_small_image(space: spaces.Space[object]) -> bool:
    if not is_image_space(space):
        return False
    assert isinstance(space, spaces.Box)
    # Its channels, first or last, are the fewest.
    sides = sorted(space.shape)[1:]
    return min(sides) < LEAST_SIDE
