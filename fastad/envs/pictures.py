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
WALL, WALL_WIDTH, WATER = (163, 150, 135), 0.06, (205, 228, 240)
POOL_MARGIN, POOL_DETAIL = 1.08, 3  # half of what a map shows; subpixels along each side of a pixel
POOL_COLUMNS, POOL_ROWS, ARROWS = 31, 15, "→↗↑↖←↙↓↘"
FRAME_HEIGHT, GAP = 288, 12  # of frames enlarged, and between pictures, in pixels


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


def draw_pool(
    size: int,
    platform: Sequence[float],
    pose: Sequence[float],
    landmarks: Sequence[Sequence[int]],
) -> np.ndarray:
    """A round pool of radius 1 from above, y upwards; oneself is an arrowhead.

    Args:
        size: Pixels along each side.
        platform: x and y of its centre, and its radius.
        pose: x, y and the heading of oneself, in radians from the x axis, counter-clockwise.
        landmarks: Colours of equal parts of the wall, counter-clockwise from the x axis.

    Returns:
        (size, size, 3) uint8.
    """
    place = (np.arange(size * POOL_DETAIL) + 0.5) / (size * POOL_DETAIL)
    x, y = (2 * place[None, :] - 1) * POOL_MARGIN, (1 - 2 * place[:, None]) * POOL_MARGIN
    radius, part = np.hypot(x, y), np.arctan2(y, x) / (2 * np.pi) % 1 * len(landmarks)
    is_landmark = np.abs(part % 1 - 0.5) < 0.35
    wall = np.where(is_landmark[..., None], np.array(landmarks)[part.astype(int)], WALL)
    picture = np.where(radius[..., None] <= 1 + WALL_WIDTH, wall, PAPER).astype(np.float64)
    picture[radius <= 1] = WATER
    picture[np.hypot(x - platform[0], y - platform[1]) <= platform[2]] = LANDMARKS["G"]
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    ahead = (x - pose[0]) * cos + (y - pose[1]) * sin
    aside = np.abs((y - pose[1]) * cos - (x - pose[0]) * sin)
    picture[(aside <= 0.4 * (0.11 - ahead)) & (ahead >= -0.05 - 0.5 * aside)] = SELF
    averaged = picture.reshape(size, POOL_DETAIL, size, POOL_DETAIL, 3).mean(axis=(1, 3))
    return averaged.round().astype(np.uint8)


def write_pool(platform: Sequence[float], pose: Sequence[float]) -> str:
    """The same as lines of text: `o` for the platform, one of eight arrows for oneself."""
    x = np.linspace(-1, 1, POOL_COLUMNS)[None, :]
    y = np.linspace(1, -1, POOL_ROWS)[:, None]
    marks = np.where(np.hypot(x, y) <= 1.02, ".", " ")
    marks[np.hypot(x - platform[0], y - platform[1]) <= platform[2]] = "o"
    nearest = np.hypot(x - pose[0], y - pose[1]).argmin()
    marks.ravel()[nearest] = ARROWS[round(pose[2] / (2 * np.pi) * len(ARROWS)) % len(ARROWS)]
    return "\n".join("".join(row).rstrip() for row in marks) + "\n"


def write_plane(
    low: Sequence[float], high: Sequence[float], goal: Sequence[float], at: Sequence[float]
) -> str:
    """A rectangle from above as lines of text, y upwards: `o` for the goal, `@` for oneself.

    Args:
        low: Its corner at the bottom, on the left.
        high: The opposite one.
        goal: x and y of its centre, and its radius.
        at: x and y of oneself.
    """
    x = np.linspace(low[0], high[0], POOL_COLUMNS)[None, :]
    y = np.linspace(high[1], low[1], POOL_ROWS)[:, None]
    marks = np.where(np.hypot(x - goal[0], y - goal[1]) <= goal[2], "o", ".")
    marks.ravel()[np.hypot(x - at[0], y - at[1]).argmin()] = "@"
    return "\n".join("".join(row) for row in marks) + "\n"


def enlarged(frame: np.ndarray) -> np.ndarray:
    """A frame with every pixel as large as brings it near a height of `FRAME_HEIGHT`."""
    times = max(1, round(FRAME_HEIGHT / len(frame)))
    return frame.repeat(times, axis=0).repeat(times, axis=1)


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures of one height side by side, with a white gap."""
    gap = np.full((len(pictures[0]), GAP, 3), PAPER, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)
