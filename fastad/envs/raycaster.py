"""First-person frames of a round pool: one ray per column of pixels, in plain torch.

A ray from inside the unit circle leaves it at an angle and a distance that have a closed form.
What a column of pixels looks like depends on these two alone, so that every column there can be
is drawn once, as a strip, and a frame is a selection of rows from the table of strips.

From a pose follows the same frame, to the last bit, in any batch and on any processor, as only
products, sums and look-ups come in between: functions such as the sine are rounded by libraries
as they like, even differently at different places of one tensor.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache

import torch
from torch import Tensor

from fastad.envs import scenery

# The pool's radius is the unit of length.
EYE_HEIGHT, WALL_HEIGHT = 0.3, 0.6  # above the water
HALF_VIEW = 1.0  # tangent of half the field of view: 90 degrees from side to side
HEADINGS = 4096  # directions that are told apart, in a full turn
NEAREST, FARTHEST = 0.06, 2.0  # distances of the wall that strips are drawn for
PARTS = 2048  # that the unit of length is divided into, to look up by
# How finely the wall is drawn before pixels are averaged: rows in each, angles in each bin of
# angles, and bands from the wall's foot to its top.
SUBROWS, FINE, NUM_BANDS = 4, 4, 64
VIEWS_KEPT = 8  # tables of strips that a process holds, 30 MB each for frames of 72 x 96


class Raycaster:
    """Draws frames of `height` x `width`, on one device; see `raycaster` for one that is shared.

    Args:
        height: Rows of pixels.
        width: Columns of pixels, which are square.
        device: Where poses are.

    Attributes:
        focal: Pixels per unit of length at distance 1.
    """

    # What `render` looks up. Headings, (2, HEADINGS): cosine and sine.
    _directions: Tensor
    # By column, (width,): the ray's direction relative to the heading, scaled as indices are.
    _cos: Tensor
    _sin: Tensor
    _root_scale: Tensor
    _ahead_scale: Tensor
    _left_scale: Tensor
    _column_turns: Tensor
    # By how much the ray misses the centre of the pool, (2 * PARTS,): half the chord, and the turn
    # from the ray to the angle where it meets the wall, with a full turn more to stay above 0.
    _root: Tensor
    _turns: Tensor
    # By the distance along the heading, (4 * PARTS,) int32: which strip.
    _near: Tensor

    def __init__(self, height: int, width: int, device: torch.device | str = "cpu") -> None:
        self.height, self.width = height, width
        self.focal = width / 2 / HALF_VIEW
        # Bins of what strips depend on, so fine that a bin is a third of a pixel or less.
        self.num_angles = 360 * math.ceil(self.focal / 24)
        self.num_distances = 64 * math.ceil(height / 24)
        self._strips = self._draw_strips().to(device)
        self._tabulate(torch.device(device))

    def render(self, pose: Tensor) -> Tensor:
        """What is seen from poses.

        Args:
            pose: (N, 3) float32: x and y with x**2 + y**2 < 1, and the heading in radians,
                counter-clockwise from the x axis. Whatever else it holds, something is drawn.

        Returns:
            (N, height, width, 3) uint8. A view of columns by rows: making it contiguous takes
            several times as long as drawing it.
        """
        x, y, heading = pose.unbind(dim=1)
        index = (heading * (HEADINGS / math.tau)).round().int().bitwise_and_(HEADINGS - 1)
        cos, sin = self._directions.index_select(1, index).unbind()
        ahead, left = (x * cos + y * sin)[:, None], (y * cos - x * sin)[:, None]  # of the centre
        # By how much the ray misses the centre, in parts of the unit, from 0 at -1.
        miss = ahead * self._sin - left * self._cos
        miss = miss.add_(PARTS).int().clamp_(0, 2 * PARTS - 1).flatten()
        root = self._root.index_select(0, miss).view(-1, self.width)
        distance = root.mul_(self._root_scale)
        distance -= ahead * self._ahead_scale + left * self._left_scale
        near = self._near.index_select(0, distance.int().clamp_(0, 4 * PARTS - 1).flatten())
        turns = self._turns.index_select(0, miss).view(-1, self.width)
        turns += index.float().mul_(1 / HEADINGS)[:, None] + self._column_turns
        angle = turns.frac_().mul_(self.num_angles).int().flatten()
        rows = angle.mul_(self.num_distances).add_(near)
        strips = self._strips.index_select(0, rows)
        return strips.view(-1, self.width, self.height, 3).transpose(1, 2)

    def _tabulate(self, device: torch.device) -> None:
        """What `render` looks up, computed in double precision."""
        exact = torch.float64
        right = (torch.arange(self.width, dtype=exact) + 0.5 - self.width / 2) / self.focal
        ray = -right.atan()  # relative to the heading
        cos, sin = ray.cos(), ray.sin()
        headings = torch.arange(HEADINGS, dtype=exact) * (math.tau / HEADINGS)
        miss = (torch.arange(2 * PARTS, dtype=exact) + 0.5) / PARTS - 1
        # Along the heading a part is half as long: what is near is seen in detail.
        distance = (torch.arange(4 * PARTS, dtype=exact) + 0.5) / (2 * PARTS)
        steps = (self.num_distances - 1) / math.log(FARTHEST / NEAREST)
        near = ((distance / NEAREST).log() * steps).round().clamp(0, self.num_distances - 1)
        tables = {
            "directions": torch.stack((headings.cos(), headings.sin())),
            "cos": cos * PARTS,
            "sin": sin * PARTS,
            "root_scale": cos * 2 * PARTS,
            "ahead_scale": cos * cos * 2 * PARTS,
            "left_scale": sin * cos * 2 * PARTS,
            "column_turns": ray / math.tau,
            "root": (1 - miss * miss).sqrt(),
            "turns": 1 - miss.asin() / math.tau,
        }
        for name, table in tables.items():
            setattr(self, f"_{name}", table.float().to(device))
        self._near = near.int().to(device)

    def _draw_strips(self) -> Tensor:
        """Every column there can be, (num_angles * num_distances, height * 3) uint8."""
        distances = torch.logspace(
            *(math.log(NEAREST), math.log(FARTHEST), self.num_distances),
            base=math.e,
            dtype=torch.float64,
        )
        subrows = torch.arange(self.height * SUBROWS, dtype=torch.float64) + 0.5
        below = subrows / SUBROWS - self.height / 2  # the horizon, in pixels
        row = (subrows / SUBROWS).long()
        sky = scenery.sky(below / (-self.height / 2))
        water = scenery.water((EYE_HEIGHT * self.focal / below).clamp(0, FARTHEST))
        averaged = _averages(self.num_angles)
        strips = torch.empty(
            (self.num_angles, self.num_distances, self.height, 3), dtype=torch.uint8
        )
        for index, distance in enumerate(distances.tolist()):
            pixel = distance / self.focal  # its size on the wall, seen from the middle of the pool
            band = ((EYE_HEIGHT - below * pixel) * (NUM_BANDS / WALL_HEIGHT)).floor().long()
            on_wall = (band >= 0) & (band < NUM_BANDS)
            shares = torch.zeros((self.height, NUM_BANDS), dtype=torch.float64)
            shares.index_put_(
                (row[on_wall], band[on_wall]), shares.new_tensor(1 / SUBROWS), accumulate=True
            )
            elsewhere = torch.where((band < 0)[:, None], water, sky) * ~on_wall[:, None]
            wall = shares @ averaged(pixel) * scenery.light(distance)
            wall = wall.view(self.height, self.num_angles, 3).transpose(0, 1)
            colours = wall + elsewhere.view(self.height, SUBROWS, 3).mean(dim=1)
            strips[:, index] = (colours * 255).round().clamp_(0, 255)
        return strips.view(self.num_angles * self.num_distances, self.height * 3)


def _averages(num_angles: int) -> Callable[[float], Tensor]:
    """Gives the wall in bins of angles, each averaged over some radians, (NUM_BANDS, bins * 3)."""
    # The wall three times over: averages at its ends reach beyond the full turn in the middle.
    colours = scenery.wall(FINE * num_angles, NUM_BANDS).repeat(3, 1, 1).transpose(0, 1)
    sums = torch.nn.functional.pad(colours.cumsum(dim=1), (0, 0, 1, 0))
    middle = FINE * (torch.arange(num_angles) + num_angles) + FINE // 2

    @cache
    def over(half: int) -> Tensor:
        return ((sums[:, middle + half] - sums[:, middle - half]) / (2 * half)).flatten(1)

    return lambda width: over(max(FINE // 2, round(width * FINE * num_angles / math.tau / 2)))


@lru_cache(maxsize=VIEWS_KEPT)
def raycaster(height: int, width: int, device: torch.device) -> Raycaster:
    """The process's own for frames of this size, on this device."""
    return Raycaster(height, width, device)
