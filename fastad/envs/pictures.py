"""Environments as pictures, (height, width, 3) uint8: what an agent does, for people to look at."""

from collections.abc import Mapping, Sequence

import numpy as np

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
LINE: Colour = (223, 226, 230)
SELF: Colour = (33, 37, 41)
# By the letters of landmarks; of bars, the best and the others.
LANDMARKS: Mapping[str, Colour] = {"G": (0, 158, 115), "K": (230, 159, 0), "D": (0, 114, 178)}
BEST, OTHERS = LANDMARKS["G"], (173, 181, 189)

CELL = 24  # pixels along each side of a cell, its line included
BAR_WIDTH, BAR_HEIGHT = 24, 120  # of an arm, its gap included, and of the highest mean
PLANE = 240  # pixels along each side of a plane


def draw_room(
    size: int, landmarks: Mapping[tuple[int, int], str], at: tuple[int, int]
) -> np.ndarray:
    """A square room from above: targets are filled cells, oneself is a disc.

    Args:
        size: Cells along each side.
        landmarks: The targets' cells (x, y), and their letters.
        at: (x, y) of oneself.

    Returns:
        (size * CELL + 1, size * CELL + 1, 3) uint8.
    """
    picture = np.full((size * CELL + 1, size * CELL + 1, 3), PAPER, np.uint8)
    for (x, y), letter in landmarks.items():
        picture[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL] = LANDMARKS[letter]
    picture[::CELL] = picture[:, ::CELL] = LINE
    down, right = np.mgrid[: picture.shape[0], : picture.shape[1]]
    centre_x, centre_y = ((place + 0.5) * CELL for place in at)
    picture[(right - centre_x) ** 2 + (down - centre_y) ** 2 <= (0.32 * CELL) ** 2] = SELF
    return picture


def draw_bars(means: Sequence[float]) -> np.ndarray:
    """Arms as bars as high as their means; the best stand out. The line they stand on is 0.

    Args:
        means: One or more, finite. The scale reaches from the least to the greatest, and holds 0
            and 1.

    Returns:
        (BAR_HEIGHT + 1, len(means) * BAR_WIDTH, 3) uint8.
    """
    low, high = min(0.0, *means), max(1.0, *means)
    rows = [round((high - mean) / (high - low) * BAR_HEIGHT) for mean in (0.0, *means)]
    zero, *ends = rows
    picture = np.full((BAR_HEIGHT + 1, len(means) * BAR_WIDTH, 3), PAPER, np.uint8)
    for arm, (mean, end) in enumerate(zip(means, ends, strict=True)):
        columns = slice(arm * BAR_WIDTH + 3, (arm + 1) * BAR_WIDTH - 3)
        picture[min(zero, end) : max(zero, end) + 1, columns] = (
            BEST if mean == max(means) else OTHERS
        )
    picture[zero] = SELF
    return picture


def draw_plane(
    extent: float, at: tuple[float, float], goal: tuple[float, float], reach: float
) -> np.ndarray:
    """A square plane from above, y upwards: the goal fades with distance, oneself is a disc.

    Args:
        extent: Half of a side; the origin is in the middle.
        at: (x, y) of oneself.
        goal: (x, y) of the goal.
        reach: The distance from it at which it has faded to 1 / e.

    Returns:
        (PLANE, PLANE, 3) uint8.
    """
    places = (np.arange(PLANE) + 0.5) / PLANE * 2 * extent - extent
    x, y = places[None, :], -places[:, None]
    near = np.exp(-((x - goal[0]) ** 2 + (y - goal[1]) ** 2) / reach**2)[..., None]
    picture = np.asarray(PAPER) * (1 - near) + np.asarray(LANDMARKS["G"]) * near
    picture[np.hypot(x, y) < 0.01 * extent] = LINE
    picture[(x - at[0]) ** 2 + (y - at[1]) ** 2 <= (0.05 * extent) ** 2] = SELF
    picture[[0, -1]] = picture[:, [0, -1]] = LINE
    return picture.astype(np.uint8)
