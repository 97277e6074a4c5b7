"""How one moves in a round pool of radius 1: the strokes, and the way to a place.

Headings are whole multiples of a small angle, and what follows a stroke is a product and a sum of
numbers looked up: a pose leads to the same pose in any batch, on any processor.
"""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fastad.envs.raycaster import HEADINGS

REACH = 0.9  # of a swimmer from the centre of the pool
STROKE = 0.08  # the way that a stroke takes one
TURN = 22.5  # degrees
# Of the way to a place: how much facing it is worth, as a length, and how much shorter a way must
# be for its stroke to be e times as likely.
FACING, INDIFFERENCE = 0.3 * STROKE, 0.004


class Stroke(NamedTuple):
    """What an action does: it turns, and then moves."""

    turn: float = 0.0  # degrees, to the left
    moves: bool = True
    direction: float = 0.0  # of the move, degrees to the left of the new heading


class Swimming:
    """The strokes, on one device.

    Args:
        device: Where poses are: x, y, and the heading in radians, from 0 to below 2 pi.
        reach: Of a swimmer from the centre of the pool.
    """

    STROKES: ClassVar[tuple[Stroke, ...]] = (
        Stroke(),  # 0 forward
        Stroke(direction=180.0),  # 1 back
        Stroke(direction=90.0),  # 2 left, looking ahead
        Stroke(direction=-90.0),  # 3 right, looking ahead
        Stroke(turn=TURN, moves=False),  # 4 turn to the left
        Stroke(turn=-TURN, moves=False),  # 5 turn to the right
        Stroke(turn=TURN),  # 6 forward with a turn to the left
        Stroke(turn=-TURN),  # 7 forward with a turn to the right
    )

    def __init__(self, device: torch.device, reach: float = REACH) -> None:
        def steps(degrees: float) -> int:
            return round(degrees / 360 * HEADINGS)

        self.reach = reach
        turns, moves, directions = zip(*self.STROKES, strict=True)
        self._turn = torch.tensor([steps(turn) for turn in turns], device=device)
        self._direction = torch.tensor([steps(d) for d in directions], device=device)
        self._length = torch.tensor([STROKE * move for move in moves], device=device)
        angles = torch.arange(HEADINGS, dtype=torch.float64) * (math.tau / HEADINGS)
        self._ahead = torch.stack((angles.cos(), angles.sin()), dim=1).float().to(device)
        self._every = torch.arange(len(self.STROKES), device=device)

    def __call__(self, pose: Tensor, action: Tensor) -> Tensor:
        """The poses after strokes; who would leave the reach is put back towards the centre.

        Args:
            pose: (..., 3) float32.
            action: (...) int64; the two broadcast.

        Returns:
            (..., 3).
        """
        heading = (_heading(pose) + self._turn[action]) % HEADINGS
        ahead = self._ahead[(heading + self._direction[action]) % HEADINGS]
        place = pose[..., :2] + ahead * self._length[action][..., None]
        distance = place.square().sum(dim=-1, keepdim=True).sqrt()
        place = place * (self.reach / distance).clamp(max=1.0)
        return torch.cat((place, _radians(heading)[..., None]), dim=-1)

    def towards(self, pose: Tensor, target: Tensor) -> Tensor:
        """A policy that swims to places, looking ahead by one stroke, and stays there.

        Of the strokes that lead equally near it prefers those that face the target. Where none
        leads nearer, it turns.

        Args:
            pose: (..., 3).
            target: (..., 2).

        Returns:
            Probabilities (..., A), sharp but not uniform over the best: nearly equal strokes are
            nearly equally likely.
        """
        after = self(pose[..., None, :], self._every)  # (..., A, 3)
        offset = target[..., None, :] - after[..., :2]
        distance = offset.square().sum(dim=-1).sqrt()
        facing = (offset * self._ahead[_heading(after)]).sum(dim=-1) / distance.clamp(min=1e-6)
        cost = distance + FACING * (1 - facing) * (distance > STROKE)
        return (cost / -INDIFFERENCE).softmax(dim=-1)

    def draw_heading(self, num: int, generator: torch.Generator) -> Tensor:
        """Headings, each equally likely, (num, 1) float32."""
        shape = (num, 1)
        return _radians(
            torch.randint(HEADINGS, shape, generator=generator, device=generator.device)
        )


def uniform_in_disc(num: int, radius: float, generator: torch.Generator) -> Tensor:
    """Draw points (num, 2) float32 around the origin, on the generator's device."""
    uniform = torch.rand((num, 2), generator=generator, device=generator.device)
    distance, angle = radius * uniform[:, 0].sqrt(), math.tau * uniform[:, 1]
    return torch.stack((distance * angle.cos(), distance * angle.sin()), dim=1)


def lattice(pitch: float, radius: float) -> Tensor:
    """The points of a triangular lattice in a disc around the origin, (M, 2) float32."""
    reach = math.ceil(radius / pitch) + 1
    column, row = torch.meshgrid(*[torch.arange(-2 * reach, 2 * reach + 1)] * 2, indexing="ij")
    x, y = pitch * (column + 0.5 * (row % 2)), pitch * math.sqrt(0.75) * row
    points = torch.stack((x, y), dim=-1).flatten(0, 1)
    return points[points.square().sum(dim=1) <= radius**2]


def _heading(pose: Tensor) -> Tensor:
    """The number of the heading of poses (..., 3), (...) int64."""
    return (pose[..., 2] * (HEADINGS / math.tau)).round().long() % HEADINGS


def _radians(heading: Tensor) -> Tensor:
    return heading.float() * (math.tau / HEADINGS)
