"""How many first-person frames per second come of the poses of 256 Watermaze environments?

fastad: `Watermaze.show`, which returns a view of columns by rows, as it is drawn; and the same made
contiguous, row by row, as Gymnasium gets it. The peer casts a ray per pixel in plain torch, of the
same scenery. On a GPU poses and frames live there; the peer's are on the CPU alone.

Checked before timing: frames are near those of 16 rays per pixel, in the mean over all pixels;
columns are chosen from a table, so that they are no closer than its bins are fine.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.harness import Measure
from benchmarks.peers.plain_frames import plain_frames
from fastad.envs.watermaze import Watermaze

NUM_ENVS = 256
GPU = torch.cuda.is_available()
SIDES = ("fastad, as it is drawn", "fastad, contiguous", "a ray per pixel")
# Mean difference from 16 rays per pixel, as a share of white; one ray per pixel is at 1 to 4 %.
TOLERANCE = 0.05


class Case(NamedTuple):
    """The size of frames."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"frames of {self.height}x{self.width}"


CASES = (Case(72, 96), Case(84, 84), Case(24, 32), Case(16, 24))
QUICK = (Case(16, 24),)


def test_render(measure: Measure, case: Case, side: str) -> None:
    family = Watermaze(*case)
    generator = torch.Generator().manual_seed(0)
    poses = family.make(family.sample(NUM_ENVS, "train", generator), generator).reset()
    if GPU and side != SIDES[2]:
        poses = poses.cuda()
    draw = _drawing(family, side)
    exact = plain_frames(poses[:32].cpu(), *case).float()
    difference = (draw(poses[:32]).cpu().float() - exact).abs().mean().item() / 255
    measure.gate(difference, tolerance=TOLERANCE)
    if GPU and side == SIDES[2]:
        pytest.skip("it draws on the CPU alone")
    measure.rate(lambda: draw(poses), work=NUM_ENVS, unit="frames/s")


def _drawing(family: Watermaze, side: str) -> Callable[[Tensor], Tensor]:
    """From poses to frames."""
    if side == SIDES[2]:
        return lambda poses: plain_frames(poses, family.height, family.width, parts=1)
    if side == SIDES[1]:
        return lambda poses: family.show(poses).contiguous()
    return family.show
