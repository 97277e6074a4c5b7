"""What there is to see in the pool: a brick wall with twelve landmarks, the sky and the water."""

import math

import torch
from torch import Tensor

# Every landmark has a colour of its own for its ground; its pattern is in that of another.
COLOURS = (
    (0.90, 0.16, 0.18), (0.97, 0.84, 0.16), (0.16, 0.66, 0.24), (0.95, 0.95, 0.93),
    (0.56, 0.18, 0.74), (0.98, 0.55, 0.12), (0.12, 0.24, 0.78), (0.12, 0.12, 0.14),
    (0.96, 0.50, 0.70), (0.10, 0.72, 0.74), (0.48, 0.30, 0.14), (0.66, 0.92, 0.36),
)  # fmt: skip
NUM_LANDMARKS = len(COLOURS)
LANDMARK_SHARE = 0.7  # of the wall's circumference that they cover
BRICK, MORTAR, COPING = (0.64, 0.59, 0.53), (0.52, 0.48, 0.43), (0.82, 0.86, 0.87)
ZENITH, HORIZON = (0.33, 0.55, 0.93), (0.83, 0.91, 0.98)
SHALLOW, DEEP = (0.33, 0.66, 0.74), (0.05, 0.27, 0.44)
COURSES, BRICKS = 8, 72  # rows of bricks, and bricks in a row


def landmark_angle(index: int) -> float:
    """Where the middle of landmark `index`, from 0, is on the wall, in radians."""
    return (index + 0.5) * math.tau / NUM_LANDMARKS


def wall(num_angles: int, num_heights: int) -> Tensor:
    """The colours of the wall, unlit: (num_angles, num_heights, 3) float64, from its foot up."""
    turn = ((torch.arange(num_angles, dtype=torch.float64) + 0.5) / num_angles)[:, None]
    height = ((torch.arange(num_heights, dtype=torch.float64) + 0.5) / num_heights)[None]
    course = height * COURSES
    along = turn * BRICKS + 0.5 * (course.floor() % 2)  # every other course is shifted
    is_mortar = (along % 1 < 0.08) | (course % 1 < 0.1)
    colours = torch.where(is_mortar[..., None], _colour(MORTAR), _colour(BRICK))
    # Within its share of the wall, across and up from the middle of the landmark, in [-1, 1].
    index = (turn * NUM_LANDMARKS).long()
    across = (turn * NUM_LANDMARKS % 1 - 0.5) * (2 / LANDMARK_SHARE)
    up = (height - 0.525) / 0.375
    is_landmark = (across.abs() < 1) & (up.abs() < 1)
    patterns = torch.broadcast_tensors(
        (across.abs() < 0.85) & (up.abs() < 0.85) & (across.abs().maximum(up.abs()) > 0.6),  # frame
        across.abs() < 1 / 3,  # stripe
        up.abs() < 1 / 3,  # band
        across**2 + up**2 < 0.4,  # disc
    )
    kind = index[:, 0] % len(patterns)
    is_ground = ~torch.stack(patterns)[kind, torch.arange(num_angles)]
    palette = torch.tensor(COLOURS, dtype=torch.float64)
    other = (index * 5 + 3) % NUM_LANDMARKS
    chosen = palette[torch.where(is_ground, index, other)]
    colours = torch.where(is_landmark[..., None], chosen, colours)
    return torch.where((height < 0.07)[..., None], _colour(COPING), colours)


def sky(rise: Tensor) -> Tensor:
    """Colours (..., 3) at heights above the horizon, from 0 to 1 at the top of the frame."""
    return torch.lerp(_colour(HORIZON), _colour(ZENITH), rise.clamp(0, 1)[..., None])


def water(distance: Tensor) -> Tensor:
    """Colours (..., 3) of the water at distances along the heading: what is far mirrors the sky."""
    return torch.lerp(_colour(DEEP), _colour(SHALLOW), (distance / 2).clamp(0, 1)[..., None])


def light(distance: float) -> float:
    """Brightness of the wall at a distance: what is near is bright."""
    return min(1.0, 1.15 / (1 + 0.35 * distance))


def _colour(rgb: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rgb, dtype=torch.float64)
