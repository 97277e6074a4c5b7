"""Watermaze's frames from the plainest ray-caster there is: for each part of a pixel a ray."""

import math

import torch
from torch import Tensor

from fastad.envs import scenery
from fastad.envs.raycaster import EYE_HEIGHT, FARTHEST, HALF_VIEW, WALL_HEIGHT

WALL_ANGLES, WALL_BANDS = 2880, 64


def plain_frames(pose: Tensor, height: int, width: int, *, parts: int = 4) -> Tensor:
    """The frames (N, height, width, 3) uint8 seen from poses (N, 3), of `parts`**2 rays a pixel."""
    focal = width / 2 / HALF_VIEW
    x, y, heading = pose.double()[:, :, None].unbind(dim=1)  # (N, 1)
    right = (_middles(width, parts) - width / 2) / focal
    angle = heading - right.atan()  # (N, W)
    across, up = angle.cos(), angle.sin()
    towards = x * across + y * up
    way = (towards**2 + 1 - x**2 - y**2).sqrt() - towards  # to the unit circle
    turn = torch.atan2(y + way * up, x + way * across) / math.tau % 1
    distance = way * right.atan().cos()  # along the heading
    below = (_middles(height, parts) - height / 2)[:, None]  # (H, 1)
    above_water = EYE_HEIGHT - below * distance[:, None] / focal  # (N, H, W)
    wall = scenery.wall(WALL_ANGLES, WALL_BANDS)
    band = (above_water * (WALL_BANDS / WALL_HEIGHT)).long().clamp(0, WALL_BANDS - 1)
    light = torch.tensor([scenery.light(d) for d in distance.flatten().tolist()]).view_as(distance)
    colours = wall[(turn * WALL_ANGLES).long()[:, None], band] * light[:, None, :, None]
    sky = scenery.sky(below / (-height / 2))
    water = scenery.water((EYE_HEIGHT * focal / below).clamp(0, FARTHEST))
    colours = torch.where((above_water >= WALL_HEIGHT)[..., None], sky, colours)
    colours = torch.where((above_water < 0)[..., None], water, colours)
    pixels = colours.view(len(pose), height, parts, width, parts, 3).mean(dim=(2, 4))
    return (pixels * 255).round().to(torch.uint8)


def _middles(pixels: int, parts: int) -> Tensor:
    return (torch.arange(pixels * parts, dtype=torch.float64) + 0.5) / parts
