import gymnasium
import numpy as np
import pytest

import fastad.envs  # noqa: F401
from fastad.envs.pictures import (
    BAR_HEIGHT,
    BAR_WIDTH,
    BEST,
    CELL,
    LANDMARKS,
    OTHERS,
    PAPER,
    SELF,
    draw_bars,
    draw_room,
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
