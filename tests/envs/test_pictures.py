import gymnasium
import numpy as np
import pytest

import fastad.envs  # noqa: F401
from fastad.envs.pictures import (
    BAR_HEIGHT,
    BAR_WIDTH,
    BEST,
    CELL,
    GAP,
    LANDMARKS,
    OTHERS,
    PAPER,
    SELF,
    WATER,
    beside,
    draw_bars,
    draw_pool,
    draw_room,
    enlarged,
    write_pool,
)


def colour(picture, x, y):
    """In the corner of a cell, which the disc leaves free, and in its middle."""
    corner, middle = (picture[y * CELL + d, x * CELL + d] for d in (2, CELL // 2))
    return tuple(corner.tolist()), tuple(middle.tolist())


def bar(picture, arm):
    """The rows that an arm fills with its own colour, and that colour."""
    column = picture[:, arm * BAR_WIDTH + BAR_WIDTH // 2]
    rows = [row for row, c in enumerate(column.tolist()) if tuple(c) in (BEST, OTHERS)]
    return rows, tuple(column[rows[0]].tolist()) if rows else None


def test_a_room_shows_targets_and_oneself():
    picture = draw_room(3, {(2, 0): "K", (0, 1): "D"}, at=(0, 1))

    assert picture.shape == (3 * CELL + 1, 3 * CELL + 1, 3)
    assert picture.dtype == np.uint8
    assert colour(picture, 2, 0) == (LANDMARKS["K"], LANDMARKS["K"])
    assert colour(picture, 0, 1) == (LANDMARKS["D"], SELF)
    others = [(x, y) for x in range(3) for y in range(3) if (x, y) not in ((2, 0), (0, 1))]
    assert all(colour(picture, *cell) == (PAPER, PAPER) for cell in others)


def test_bars_are_as_high_as_means_and_the_best_stands_out():
    picture = draw_bars([0.25, 1.0, 0.0])

    assert picture.shape == (BAR_HEIGHT + 1, 3 * BAR_WIDTH, 3)
    for arm, (mean, chosen) in enumerate(((0.25, OTHERS), (1.0, BEST))):
        rows, seen = bar(picture, arm)
        assert (rows[0], rows[-1]) == (round((1 - mean) * BAR_HEIGHT), BAR_HEIGHT - 1)
        assert seen == chosen
    assert bar(picture, 2) == ([], None)
    assert (picture[BAR_HEIGHT] == SELF).all()


def test_means_below_zero_hang_and_ones_above_one_fit():
    picture = draw_bars([-2.0, 3.0])

    zero = round(3 / 5 * BAR_HEIGHT)
    assert (picture[zero] == SELF).all()
    assert bar(picture, 0)[0] == list(range(zero + 1, BAR_HEIGHT + 1))
    assert bar(picture, 1)[0] == list(range(zero))


@pytest.mark.parametrize("number", [1, 3])
def test_gymnasium_gets_a_picture_of_where_one_is(number):
    options = {"goal": (8, 8), "render_mode": "rgb_array"}
    if number == 1:
        env = gymnasium.make("fastad/DarkRoom-v0", **options)
    else:
        env = gymnasium.make_vec("fastad/DarkRoom-v0", num_envs=number, **options)
    env.reset(seed=0)
    env.step(2 if number == 1 else np.full(number, 2))  # right, of the centre
    shown = [env.render()] if number == 1 else env.render()
    assert len(shown) == number
    for picture in shown:
        assert colour(picture, 5, 4) == (PAPER, SELF)
        assert colour(picture, 8, 8) == (LANDMARKS["G"], LANDMARKS["G"])


def test_a_pool_shows_the_platform_oneself_and_the_landmarks():
    red, blue = (255, 0, 0), (0, 0, 255)
    picture = draw_pool(216, (0.5, 0.0, 0.15), (-0.5, 0.5, np.pi / 2), [red, blue])

    def at(x, y):  # 100 pixels per unit, y upwards
        return tuple(picture[round(108 - 100 * y - 0.5), round(108 + 100 * x - 0.5)].tolist())

    assert picture.shape == (216, 216, 3)
    assert at(0, 0) == WATER
    assert at(0.5, 0.0) == at(0.5, 0.13) == LANDMARKS["G"]
    assert at(0.5, 0.17) == WATER
    # The arrow points up: its tip is 0.11 ahead, and behind there is water.
    assert at(-0.5, 0.5) == at(-0.5, 0.58) == SELF
    assert at(-0.5, 0.36) == at(-0.4, 0.55) == WATER
    assert at(0, 1.03) == red
    assert at(0, -1.03) == blue
    assert at(1.05, 1.05) == PAPER


def test_a_pool_is_written_with_an_arrow():
    lines = write_pool((0.5, 0.0, 0.15), (0.0, 0.0, np.pi / 4)).splitlines()
    assert len(lines) == 15
    # 31 columns and 15 rows from -1 to 1: the platform's middle is 7.5 columns from one's own.
    assert lines[7] == "." * 15 + "↗" + "." * 5 + "oooo" + "." * 6
    assert sum(line.count("↗") for line in lines) == 1
    assert "↓" in write_pool((0.5, 0.0, 0.15), (0.0, 0.0, 1.5 * np.pi))


def test_frames_are_enlarged_by_whole_pixels_and_put_beside_the_pool():
    frame = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    large = enlarged(frame)
    assert large.shape == (288, 432, 3)
    assert (large[::18, ::18] == frame).all()
    both = beside(large, large)
    assert both.shape == (288, 2 * 432 + GAP, 3)
    assert (both[:, 432 : 432 + GAP] == PAPER).all()


def test_gymnasium_gets_what_is_seen_in_watermaze_and_the_pool_beside_it():
    env = gymnasium.make("fastad/Watermaze-v0", platform=(0.5, 0), render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (288, 384 + GAP + 288, 3)
    assert (picture[::4, :384:4] == frame).all()
    x, y = 0.5 / 1.08, 0.0  # of half a map's size
    middle = picture[round(144 - 144 * y), 384 + GAP + round(144 + 144 * x)]
    assert tuple(middle.tolist()) in (LANDMARKS["G"], SELF)
