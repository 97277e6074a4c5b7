import math

import pytest
import torch
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.envs.shortest_swim import NUM_BEARINGS, NUM_DISTANCES, best_returns, fewest_strokes
from fastad.envs.swimming import STROKE, Swimming, lattice, uniform_in_disc
from fastad.envs.watermaze import Watermaze

FORWARD, BACK, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT, VEER_LEFT, VEER_RIGHT = range(8)
SMALL = {"height": 16, "width": 24}
EIGHTH = math.pi / 8  # 22.5 degrees


def build(platforms=((0.4, 0.0),), seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    tasks = torch.tensor(platforms, dtype=torch.float32)
    return Watermaze(**(SMALL | options)).make(tasks, generator)


def put(env, *rows):
    env._pose.copy_(torch.tensor(rows, dtype=torch.float32))


def act(env, *actions):
    return env.step(torch.tensor(actions))


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (FORWARD, (0.08, 0.0, 0.0)),
        (BACK, (-0.08, 0.0, 0.0)),
        (LEFT, (0.0, 0.08, 0.0)),
        (RIGHT, (0.0, -0.08, 0.0)),
        (TURN_LEFT, (0.0, 0.0, EIGHTH)),
        (TURN_RIGHT, (0.0, 0.0, 15 * EIGHTH)),
        (VEER_LEFT, (0.08 * math.cos(EIGHTH), 0.08 * math.sin(EIGHTH), EIGHTH)),
        (VEER_RIGHT, (0.08 * math.cos(EIGHTH), -0.08 * math.sin(EIGHTH), 15 * EIGHTH)),
    ],
)
def test_strokes_turn_and_move(action, expected):
    env = build()
    put(env, (0, 0, 0))
    torch.testing.assert_close(act(env, action)[0], torch.tensor([expected]))


def test_moves_are_relative_to_the_heading():
    env = build(((0.4, 0.0),) * 4)
    put(env, *[(0.1, 0.2, math.pi / 2)] * 4)
    place = act(env, FORWARD, BACK, LEFT, RIGHT)[0][:, :2]
    expected = torch.tensor([[0.1, 0.28], [0.1, 0.12], [0.02, 0.2], [0.18, 0.2]])
    torch.testing.assert_close(place, expected)


def test_the_wall_keeps_swimmers_within_its_reach():
    env = build(((0.4, 0.0),) * 2)
    put(env, (0.85, 0, 0), (0.9, 0, math.pi / 2))
    ahead, along = act(env, FORWARD, FORWARD)[0]
    torch.testing.assert_close(ahead, torch.tensor([0.9, 0.0, 0.0]))
    # (0.9, 0.08) is 0.90355 from the centre; it is drawn back to 0.9.
    expected = torch.tensor([0.9 * 0.9 / 0.90355, 0.08 * 0.9 / 0.90355, math.pi / 2])
    torch.testing.assert_close(along, expected, atol=1e-5, rtol=0)


def test_every_step_that_ends_on_the_platform_pays():
    env = build(((0.2, 0.0),))
    put(env, (0, 0, 0))
    # Its radius is 0.15: from 0.2 away a stroke to 0.12 pays, turning there does, and one back
    # does not; nor does one aside, to sqrt(0.12**2 + 0.16**2) = 0.2 in two.
    paid = [act(env, a)[1].item() for a in (TURN_LEFT, TURN_RIGHT, FORWARD, TURN_LEFT, TURN_RIGHT)]
    assert paid == [0, 0, 1, 1, 1]
    assert [act(env, a)[1].item() for a in (LEFT, LEFT, RIGHT, BACK)] == [1, 0, 1, 0]


def test_episodes_are_truncated_after_their_steps_and_begin_elsewhere():
    env = build(((0.4, 0.0),) * 5, episode_length=3)
    for _ in range(2):
        put(env, *[(0, 0, 0)] * 5)
        ends = [act(env, *[TURN_LEFT] * 5) for _ in range(3)]
        assert [bool(truncated.all()) for *_, truncated in ends] == [False, False, True]
        assert not any(terminated.any() for _, _, terminated, _ in ends)
        expected = torch.tensor([[0.0, 0.0, 3 * EIGHTH]]).expand(5, 3)
        torch.testing.assert_close(env.final_observation, expected)
        start = ends[-1][0]
        assert torch.equal(start, env.pose)
        assert len(start[:, 0].unique()) == 5


def test_starts_and_platforms_are_uniform_over_their_discs():
    family, num = Watermaze(**SMALL), 20_000
    tasks = family.sample(num, "train", torch.Generator().manual_seed(0))
    pose = family.make(tasks, torch.Generator().manual_seed(1)).reset()
    # In the mean over a disc the squared distance is half of the squared radius, with a standard
    # deviation of 1 / sqrt(12) of it: 0.002 of it in the mean of 20,000. Five of these are allowed.
    for place, radius in ((tasks, 0.8), (pose[:, :2], 0.9)):
        share = place.square().sum(dim=1) / radius**2
        assert abs(share.mean() - 0.5) < 0.0103
        assert share.max() <= 1 + 1e-6
        assert (place.mean(dim=0).abs() < 0.0177 * radius).all()
    assert abs(pose[:, 2].mean() - math.pi) < 5 * math.tau / math.sqrt(12 * num)


def test_starts_are_not_platforms_though_both_are_drawn_from_one_seed():
    family = Watermaze(**SMALL)
    tasks = family.sample(500, "train", torch.Generator().manual_seed(3))
    pose = family.make(tasks, torch.Generator().manual_seed(3)).reset()
    near = (pose[:, :2] - tasks).square().sum(dim=1).sqrt() < 0.15
    assert near.float().mean() < 0.08  # by chance 0.15**2 / 0.9**2 = 0.028


def test_an_environment_alone_is_the_same_as_in_a_batch():
    platforms = uniform_in_disc(7, 0.8, torch.Generator().manual_seed(0)).tolist()
    actions = torch.randint(8, (30, 7), generator=torch.Generator().manual_seed(1))
    together = build(platforms)
    start, steps = together.pose, [together.step(row) for row in actions]
    for index, platform in enumerate(platforms):
        alone = build((platform,))
        put(alone, start[index].tolist())
        for row, step in zip(actions, steps, strict=True):
            mine = alone.step(row[index : index + 1])
            assert all(torch.equal(m[0], s[index]) for m, s in zip(mine, step, strict=True))


def test_both_ways_to_store_show_the_same_frames():
    posed, framed = (build(((0.4, 0.0),) * 3, store=store, episode_length=4) for store in
                     ("pose", "frames"))  # fmt: skip
    show = posed.family.show
    assert torch.equal(show(posed.reset()), framed.reset())
    for action in torch.randint(8, (10, 3), generator=torch.Generator().manual_seed(1)):
        pose, *others = posed.step(action)
        frames, *same = framed.step(action)
        assert torch.equal(show(pose), frames)
        assert torch.equal(show(posed.final_observation), framed.final_observation)
        assert all(torch.equal(*pair) for pair in zip(others, same, strict=True))
        assert torch.equal(posed.pose, framed.pose)
        assert torch.equal(posed.final_pose, framed.final_pose)
        assert torch.equal(posed.expert(pose), framed.expert(frames))
        assert framed.family.show(frames) is frames
        final = framed.final_observation
        assert posed.render_text(posed.final_observation, 1) == framed.render_text(final, 1)


@pytest.mark.parametrize("store", ["pose", "frames"])
def test_untracked_environments_do_the_same(store):
    tracked, untracked = (build(((0.4, 0.0),) * 3, store=store, episode_length=4) for _ in "ab")
    untracked.untrack()
    assert torch.equal(tracked.reset(), untracked.reset())
    for action in torch.randint(8, (10, 3), generator=torch.Generator().manual_seed(1)):
        results = zip(tracked.step(action), untracked.step(action), strict=True)
        assert all(torch.equal(*pair) for pair in results)
        assert torch.equal(tracked.final_observation, untracked.final_observation)


def test_what_is_stored_and_what_is_shown():
    posed, framed = (Watermaze(store=store).spec() for store in ("pose", "frames"))
    assert posed.observation_space.shape == (3,)
    assert posed.shown_space == framed.observation_space
    assert isinstance(framed.observation_space, spaces.Box)
    assert framed.observation_space.shape == (72, 96, 3)
    assert framed.shown_space is None


def test_poses_of_any_leading_shape_are_shown():
    family, pose = Watermaze(**SMALL), torch.rand(2, 5, 3) / 2
    frames = family.show(pose)
    assert frames.shape == (2, 5, 16, 24, 3)
    assert torch.equal(frames[1, 3], family.show(pose[1, 3]))
    assert family.show(pose[:0]).shape == (0, 5, 16, 24, 3)


def test_the_expert_swims_to_the_platform_and_stays():
    tasks = uniform_in_disc(300, 0.8, torch.Generator().manual_seed(5))
    env = build(tasks.tolist())
    observation, generator = env.reset(), torch.Generator().manual_seed(6)
    start, rewards = observation, []
    for _ in range(50):
        action = torch.multinomial(env.expert(observation), 1, generator=generator)[:, 0]
        observation, reward, *_ = env.step(action)
        rewards.append(reward)
    reward = torch.stack(rewards, dim=1)
    assert (reward.diff(dim=1) >= 0).all()
    # No way is shorter than the straight one: a swimmer at a distance needs at least so many
    # strokes, of which the last pays already.
    way = (start[:, :2] - tasks).square().sum(dim=1).sqrt() - 0.15
    best = 51 - (way / STROKE).ceil().clamp(min=1)
    assert (reward.sum(dim=1) <= best).all()
    assert reward.sum() > 0.95 * best.sum()
    # The optimum is a mean over starts, of which 300 are within 3 * 6 / sqrt(300) = 1.
    optimum = env.optimal_return().mean()
    assert 0.97 * optimum < reward.sum(dim=1).mean() < optimum + 1


def test_the_best_swimmer_needs_the_fewest_strokes():
    strokes = fewest_strokes(0.15)
    distance = torch.linspace(0, 1.8, NUM_DISTANCES)
    # The place lies ahead, to the left, behind or to the right: straight on, 0.08 a stroke. Near
    # whole strokes the table may be one off.
    whole = (distance - 0.15) / STROKE
    clear = (whole - whole.round()).abs() > 0.2
    for quarter in range(4):
        straight = strokes[:, quarter * NUM_BEARINGS // 4]
        assert torch.equal(straight[clear], whole.ceil().clamp(min=1).long()[clear])
    # No other bearing takes fewer, nor many more: two turns of 22.5 degrees suffice.
    others = strokes[clear]
    fewest = whole.ceil().clamp(min=1).long()[clear, None]
    assert (others >= fewest).all()
    assert (others <= fewest + 3).all()


def test_the_best_return_counts_the_steps_that_are_left():
    # From everywhere within 1.8 it takes one stroke, as the place is that large: every step pays.
    everywhere = best_returns(torch.tensor([[0.0, 0.0], [0.8, 0.0]]), 1.8, 50)
    assert everywhere.tolist() == [50, 50]
    # In one step only those get there who start within 0.15 + 0.08, if it is ahead, or within 0.15.
    (once,) = best_returns(torch.zeros(1, 2), 0.15, 1).tolist()
    assert 0.15**2 / 0.9**2 < once < 0.23**2 / 0.9**2


def test_the_expert_goes_straight_to_what_is_ahead_and_turns_where_it_is():
    swim = Swimming(torch.device("cpu"))
    pose, target = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    ahead, here = swim.towards(pose.expand(2, 3), target)
    assert ahead.argmax() == FORWARD
    # To veer leads to 0.4272 from it instead of 0.42, looking 26.6 degrees aside. It costs
    # 0.0072 + 0.024 (1 - cos(26.6)) = 0.0097, and is exp(-0.0097 / 0.004) = 0.088 as likely.
    veering = ahead[[VEER_LEFT, VEER_RIGHT]] / ahead[FORWARD]
    torch.testing.assert_close(veering, torch.tensor([0.088, 0.088]), atol=0.001, rtol=0)
    # Farther than a stroke no longer, which way one looks is all the same.
    torch.testing.assert_close(here[[TURN_LEFT, TURN_RIGHT]], torch.tensor([0.5, 0.5]))


def test_an_expert_cannot_look_back_at_frames():
    env = build(store="frames")
    with pytest.raises(UserError, match="use store='pose'"):
        env.expert(env.reset(), phase=torch.zeros(1, dtype=torch.int64))


def test_auxiliary_targets_are_soft_codes_of_the_pose():
    family = Watermaze(**SMALL)
    places = lattice(0.25, 0.95)
    assert family.auxiliary() == {"place": len(places), "heading": 16}
    pose = torch.tensor([[0.0, 0.0, 0.0], [0.25, 0.0, EIGHTH], [-0.5, 0.0, -EIGHTH]])
    targets = family.auxiliary_targets(pose[None])
    for name, num_codes in family.auxiliary().items():
        assert targets[name].shape == (1, 3, num_codes)
        torch.testing.assert_close(targets[name].sum(dim=-1), torch.ones(1, 3))
    assert torch.equal(places[targets["place"][0].argmax(dim=-1)], pose[:, :2])
    assert targets["heading"][0].argmax(dim=-1).tolist() == [0, 1, 15]
    # The six places around are 0.25 away, each exp(-0.25**2 / (2 * 0.15**2)) = 0.2494 as likely.
    nearest = targets["place"][0, 0].sort(descending=True).values
    torch.testing.assert_close(nearest[1:7] / nearest[0], torch.full((6,), 0.24935), rtol=1e-4,
                               atol=0)  # fmt: skip
    assert Watermaze(store="frames").auxiliary() is None
    with pytest.raises(TypeError, match="no auxiliary targets"):
        Watermaze(store="frames").auxiliary_targets(pose)


def test_a_lattice_covers_its_disc():
    points = lattice(0.1, 0.5)
    distance = torch.cdist(points, points).fill_diagonal_(9)
    assert abs(distance.min() - 0.1) < 1e-6
    inside = uniform_in_disc(2000, 0.5 - 0.1, torch.Generator().manual_seed(0))
    assert torch.cdist(inside, points).amin(dim=1).max() <= 0.1 / math.sqrt(3) + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 4}, "height=4 is not possible; use 8 to 192 pixels"),
        ({"width": 640}, "width=640 is not possible"),
        ({"episode_length": 0}, "episode_length=0 is not possible"),
        ({"store": "pixels"}, "unknown store 'pixels'"),
    ],
)
def test_options_that_are_not_possible_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Watermaze(**options)


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        ([[0.1, 0.2, 0.3]], r"tasks of shape \(1, 3\) do not fit watermaze"),
        ([[0.0, 0.0], [0.6, 0.6]], r"tasks\[1\] has its platform at \(0.6, 0.6\), 0.849 from"),
        ([[math.nan, 0.0]], r"tasks\[0\] has its platform"),
    ],
)
def test_platforms_that_are_not_possible_are_refused(platforms, message):
    with pytest.raises(UserError, match=message):
        build(platforms)
