import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers.plain_frames import plain_frames
from fastad.envs.raycaster import Raycaster, raycaster
from fastad.envs.scenery import COLOURS, landmark_angle
from fastad.envs.swimming import REACH, uniform_in_disc

# Four frames of 16 x 24, looked at and kept.
GOLDEN = Path(__file__).parent / "golden_frames.npy"
GOLDEN_POSES = ((0.0, 0.0, 0.0), (0.5, 0.3, 0.5), (-0.9, 0.0, 3.5), (0.1, -0.6, 5.0))
CPU = torch.device("cpu")


def poses(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def random_poses(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    heading = math.tau * torch.rand((num, 1), generator=generator)
    return torch.cat((uniform_in_disc(num, REACH, generator), heading), dim=1)


def reddish(frame):
    """Where the ground of landmark 0 is seen, (height, width) bool."""
    red, green, blue = frame.float().unbind(dim=-1)
    return (red > 150) & (green < 70) & (blue < 70)


def first_and_last(mask):
    found = mask.nonzero()[:, 0].tolist()
    return found[0], found[-1]


def test_a_landmark_straight_ahead_is_centred():
    frame = raycaster(72, 96, CPU).render(poses((0, 0, landmark_angle(0))))[0]
    seen = reddish(frame)[36]
    # 10.5 degrees to both sides, of 96 pixels with 48 per unit: 48 tan(10.5) = 8.9.
    assert first_and_last(seen) == (39, 56)
    assert torch.equal(seen, seen.flip(0))
    other = raycaster(72, 96, CPU).render(poses((0, 0, landmark_angle(0) + math.pi)))[0]
    assert not reddish(other).any()


def test_a_turn_to_the_left_moves_it_right_by_the_tangent():
    frame = raycaster(72, 96, CPU).render(poses((0, 0, landmark_angle(0) + math.pi / 8)))[0]
    # From 22.5 - 10.5 to 22.5 + 10.5 degrees: 48 + 48 tan(12) = 58.2 to 48 + 48 tan(33) = 79.2.
    first, last = first_and_last(reddish(frame)[36])
    assert 58 <= first <= 59
    assert 78 <= last <= 79


def test_steps_bring_it_nearer():
    angle = landmark_angle(0)
    at = [(way * math.cos(angle), way * math.sin(angle), angle) for way in (0.0, 0.08, 0.4)]
    frames = raycaster(72, 96, CPU).render(poses(*at))
    # It reaches from 0.15 to 0.9 of the wall: 0.21 below the eye and 0.24 above. At a distance of
    # 1, 0.92 and 0.6 these are 48 / distance as many pixels from the horizon, in row 36.
    for frame, distance in zip(frames, (1.0, 0.92, 0.6), strict=True):
        top, bottom = 36 - 0.24 * 48 / distance, 36 + 0.21 * 48 / distance
        first, last = first_and_last(reddish(frame)[:, 48])
        assert abs(first - top) <= 1
        assert abs(last + 1 - bottom) <= 1


def test_sky_is_above_and_water_below():
    frame = raycaster(72, 96, CPU).render(poses((0, 0, 0)))[0].float()
    assert (frame[0, :, 2] > frame[0, :, 0] + 50).all()
    assert (frame[-1, :, 2] > frame[-1, :, 0] + 50).all()
    assert frame[0].mean() > frame[-1].mean()


@pytest.mark.parametrize(("size", "near"), [((72, 96), 2.0), ((84, 84), 2.0), ((16, 24), 5.0)])
def test_frames_are_near_those_of_many_rays_per_pixel(size, near):
    pose = random_poses(32)
    drawn, exact = raycaster(*size, CPU).render(pose), plain_frames(pose, *size)
    assert drawn.shape == exact.shape == (32, *size, 3)
    difference = (drawn.float() - exact.float()).abs()
    assert difference.mean() < near
    # One ray per pixel is farther from them.
    plain = (plain_frames(pose, *size, parts=1).float() - exact.float()).abs()
    assert difference.mean() < plain.mean()


def test_a_pose_gives_the_same_frame_in_any_batch():
    view, pose = Raycaster(16, 24), random_poses(97)
    together = view.render(pose)
    alone = torch.cat([view.render(row) for row in pose.split(1)])
    assert torch.equal(together, alone)
    assert torch.equal(together[13:54], view.render(pose[13:54]))


def test_frames_are_those_that_were_looked_at():
    drawn = raycaster(16, 24, CPU).render(poses(*GOLDEN_POSES)).numpy()
    # A processor may round the colours of the table another way.
    assert np.abs(drawn.astype(int) - np.load(GOLDEN)).max() <= 1


def test_whatever_a_pose_holds_something_is_drawn():
    nan, inf = math.nan, math.inf
    odd = poses((1, 1, 0), (nan, 0, 0), (0, inf, 0), (0, 0, nan), (-inf, nan, -inf), (9, 9, 1e30))
    assert Raycaster(16, 24).render(odd).shape == (6, 16, 24, 3)


def test_a_full_turn_shows_the_same():
    view = raycaster(16, 24, CPU)
    one, other = view.render(poses((0.3, 0.1, 0.5), (0.3, 0.1, 0.5 - math.tau)))
    assert torch.equal(one, other)


def test_every_landmark_has_a_colour_of_its_own():
    assert len(set(COLOURS)) == len(COLOURS) == 12


def test_tables_are_shared_within_a_process():
    assert raycaster(16, 24, CPU) is raycaster(16, 24, CPU)
