import math

import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.point_mass import PointMass


def plane(*goals, **options):
    return PointMass(**options).make(torch.tensor(goals), torch.Generator())


def test_a_move_is_a_step_long_at_most():
    env = plane((1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    env.reset()
    place = env.step(torch.tensor([[0.5, 0.0], [3.0, 4.0], [0.0, -1.0]]))[0]
    # Half a step; (3, 4) is 5 long, so (0.6, 0.8) of a step of 0.15; a whole one.
    expected = torch.tensor([[0.075, 0.0], [0.09, 0.12], [0.0, -0.15]])
    torch.testing.assert_close(place, expected)


def test_a_step_pays_by_how_near_the_goal_it_ends():
    env = plane((0.15, 0.0), (0.15, 0.25))
    env.reset()
    reward = env.step(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))[1]
    torch.testing.assert_close(reward, torch.tensor([1.0, math.exp(-1.0)]))


def test_nobody_leaves_the_plane_and_episodes_begin_at_the_origin():
    env = plane((1.0, 0.0), episode_length=9)
    env.reset()
    for step in range(9):
        observation, _, terminated, truncated = env.step(torch.tensor([[1.0, 0.0]]))
        assert not terminated
        assert bool(truncated) == (step == 8)
    # Nine steps of 0.15 would be 1.35.
    torch.testing.assert_close(env.final_observation, torch.tensor([[1.2, 0.0]]))
    assert observation.tolist() == [[0.0, 0.0]]


def test_the_optimum_is_what_going_straight_returns():
    env = plane((0.6, 0.0), (0.0, -1.0))
    observation, total = env.reset(), torch.zeros(2)
    for _ in range(20):
        observation, reward, *_ = env.step(env.expert(observation)[:, :2])
        total += reward
    torch.testing.assert_close(env.optimal_return(), total, rtol=1e-4, atol=1e-4)
    # Goal 0.6 away: 17 steps end on it, those before at 0.45, 0.3 and 0.15 from it.
    before = sum(math.exp(-((d / 0.25) ** 2)) for d in (0.45, 0.3, 0.15))
    assert env.optimal_return()[0].item() == pytest.approx(17 + before, abs=1e-4)


def test_goals_are_drawn_between_two_circles():
    goals = PointMass().sample(10_000, "train", torch.Generator().manual_seed(0))
    distance = goals.square().sum(1).sqrt()
    assert distance.min() >= 0.5 - 1e-6
    assert distance.max() <= 1.0 + 1e-6
    assert abs(distance.mean() - 0.75) < 5 * 0.5 / math.sqrt(12 * 10_000)
    assert abs(goals.mean()) < 0.03


def test_what_is_no_goal_is_refused():
    with pytest.raises(UserError, match=r"tasks\[1\] has its goal at .*; coordinates must lie"):
        plane((0.0, 1.0), (2.0, 0.0))
    with pytest.raises(UserError, match=r"shape \(1, 3\)"):
        plane((0.0, 1.0, 0.5))
    with pytest.raises(UserError, match="episode_length=0"):
        PointMass(episode_length=0)


def test_the_picture_shows_goal_and_oneself():
    env = plane((0.6, 0.0))
    picture = env.render_picture(env.reset(), 0)
    assert picture.shape == (240, 240, 3)
    # The plane is 2.4 wide: the origin is in the middle, the goal a quarter of it to the right.
    assert picture[120, 120].tolist() == [33, 37, 41]
    assert picture[120, 180].tolist() == pytest.approx([0, 158, 115], abs=3)
    assert "goal at (0.60, 0.00)" in env.render_text(env.reset(), 0)
