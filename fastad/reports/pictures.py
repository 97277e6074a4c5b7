"""Small pictures of tasks as SVG: a curve of each, and where those that have a place lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastad.envs.family import TaskFamily
from fastad.envs.scene import Disc, Plane, Room
from fastad.evaluate.comparison import Family, Line
from fastad.reports.markup import Html, joined, tag

MAX_TASKS = 64  # small curves
MAX_EPISODES = 30  # of a small curve, about
MAX_PLACES = 400  # of tasks trained on
WIDTH, HEIGHT = 132, 64  # of a small curve
Task = tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """What a line returned on every task.

    Attributes:
        label: Of the line.
        colour: Of the line, by name.
        returns: (E,) by task, means over rollouts and seeds.
        is_method: Or its source.
    """

    label: str
    colour: str
    returns: Mapping[Task, np.ndarray]
    is_method: bool


def curves_of(family: Family, colours: Mapping[str, str]) -> list[Curve]:
    """Methods and sources task by task, as long as the longest rollout."""
    return [
        Curve(line.label, colours[line.label], _by_task(line, family.num_episodes),
              line.kind == "method")
        for line in family.of_kind("source", "method")
    ]  # fmt: skip


def _by_task(line: Line, num_episodes: int) -> dict[Task, np.ndarray]:
    found: dict[Task, list[np.ndarray]] = {}
    end = min(line.num_episodes, num_episodes)
    for seed, tried in line.tried.items():
        for task, row in zip(tried.tasks, line.curve(seed, end), strict=True):
            found.setdefault(_numbers(task), []).append(row)
    return {task: np.mean(rows, axis=0) for task, rows in found.items()}


def optima_of(family: Family) -> dict[Task, float]:
    """What an optimal policy returns on each task; none where unknown."""
    return {
        _numbers(task): float(optimum)
        for line in family.of_kind("method")
        for tried in line.tried.values()
        if tried.optima is not None
        for task, optimum in zip(tried.tasks, tried.optima, strict=True)
    }


def _numbers(task: Any) -> Task:
    return tuple(task)


def small_multiples(
    env: TaskFamily | None, curves: Sequence[Curve], optima: Mapping[Task, float]
) -> Html:
    """A small curve of every task, all to the same scale."""
    tasks = list(dict.fromkeys(t for c in curves if c.is_method for t in c.returns))
    shown = tasks[:MAX_TASKS]
    values = [_thin(row) for c in curves for t, row in c.returns.items() if t in set(shown)]
    low = min(0.0, min(float(row.min()) for row in values))
    high = max([float(row.max()) for row in values] + [optima[t] for t in shown if t in optima])
    scale = (low, high if high > low else low + 1.0)
    words = [
        f"task {index + 1}" if env is None else env.words(torch.tensor(task))
        for index, task in enumerate(shown)
    ]
    common = _common(words)
    items = [
        tag("li", _small(told, common, task, curves, optima.get(task), scale))
        for told, task in zip(words, shown, strict=True)
    ]
    more = None
    if len(tasks) > len(shown):
        more = tag("p", f"The first {len(shown)} of {len(tasks)} tasks.", class_="quiet")
    return joined(tag("ul", *items, class_="multiples"), more)


def _common(words: Sequence[str]) -> int:
    """How many first letters say nothing below each: "goal (3, 4)" is (3, 4) among goals."""
    if len(words) < 2:
        return 0
    first, last = min(words), max(words)  # what these two share, all do
    alike = [a == b for a, b in zip(first, last, strict=False)]
    shared = first[: (*alike, False).index(False)]
    return shared.partition("(")[0].rfind(" ") + 1


def _thin(row: np.ndarray) -> np.ndarray:
    """Means over episodes in blocks, of more than a small curve can show."""
    width = max(1, len(row) // MAX_EPISODES)
    whole = len(row) // width * width
    thinned: np.ndarray = row[len(row) - whole :].reshape(-1, width).mean(axis=1)
    return thinned


def _small(
    words: str,
    common: int,
    task: Task,
    curves: Sequence[Curve],
    optimum: float | None,
    scale: tuple[float, float],
) -> Html:
    low, high = scale

    def height(value: float) -> float:
        return round(HEIGHT - 5 - (value - low) / (high - low) * (HEIGHT - 10), 1)

    drawn, told = [], []
    if optimum is not None:
        y = height(optimum)
        drawn.append(tag("line", x1=0, x2=WIDTH, y1=y, y2=y, class_="level"))
    last = ""
    for curve in curves:
        if task not in curve.returns:
            continue
        row = _thin(curve.returns[task])
        x = np.linspace(4, WIDTH - 4, len(row)) if len(row) > 1 else np.array([WIDTH / 2])
        at = " ".join(f"{a:.1f},{height(float(b))}" for a, b in zip(x, row, strict=True))
        drawn.append(
            tag("polyline", points=at, style=f"stroke:var({curve.colour})",
                class_="method" if curve.is_method else "source")
        )  # fmt: skip
        told.append(f"{curve.label} from {row[0]:.2f} to {row[-1]:.2f}")
        if curve.is_method:
            last = last or f"{row[-1]:.1f}"
    label = f"{words}: {'; '.join(told)}"
    if optimum is not None:
        label += f"; optimum {optimum:.2f}"
    picture = tag("svg", tag("title", label), *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
                  aria_label=label)  # fmt: skip
    return tag(
        "figure",
        picture,
        tag("figcaption", tag("span", words[common:].strip(), title=words), tag("b", last)),
    )


def task_maps(
    env: TaskFamily | None,
    curve: Curve,
    optima: Mapping[Task, float],
    trained_on: np.ndarray,
) -> list[Html]:
    """Return in the last episode by where tasks lie, one map for each place that a task names.

    Args:
        env: Of the tasks; whose tasks name no place has no map.
        curve: Of a method.
        optima: By task.
        trained_on: Tasks (P, K) that the histories are of.
    """
    maps: list[Html] = []
    column = 0
    scene = None if env is None else env.scene()
    if env is None or not isinstance(scene, Room | Disc | Plane):
        return maps
    for name, width in env.task_arguments.items():
        if width == 2 and all(len(task) >= column + 2 for task in curve.returns):
            maps.append(_map(scene, name, column, curve, optima, trained_on))
        if not isinstance(width, int):
            break
        column += width
    return maps


def _map(
    scene: Room | Disc | Plane,
    name: str,
    column: int,
    curve: Curve,
    optima: Mapping[Task, float],
    trained_on: np.ndarray,
) -> Html:
    """Cells of a grid, or points seen from above."""
    ends: dict[Task, list[float]] = {}
    best: dict[Task, list[float]] = {}
    for task, row in curve.returns.items():
        at = task[column : column + 2]
        ends.setdefault(at, []).append(float(row[-1]))
        if task in optima:
            best.setdefault(at, []).append(optima[task])
    means = {at: float(np.mean(values)) for at, values in ends.items()}
    top = {at: float(np.mean(best[at])) if at in best else max(means.values()) for at in means}
    trained = {tuple(at) for at in trained_on[:MAX_PLACES, column : column + 2].tolist()}
    if isinstance(scene, Room):
        box, shapes = _cells(scene, means, top, trained)
    else:
        box, shapes = _points(scene, means, top, trained)
    label = (
        f"Return of {curve.label} in the last episode by {name}: "
        + ", ".join(f"({at[0]:.3g}, {at[1]:.3g}) {mean:.2f}" for at, mean in means.items())
    )  # fmt: skip
    picture = tag("svg", *shapes, viewBox=box, role="img", aria_label=label,
                  style=f"--own:var({curve.colour})")  # fmt: skip
    key = tag("p", tag("span", class_="ramp", style=f"--own:var({curve.colour})"),
              " of the optimum, 0 to 100 %", tag("span", class_="trained-on"),
              f" {name} trained on", class_="key")  # fmt: skip
    return tag("figure", picture, tag("figcaption", f"{curve.label}: by {name}", key), class_="map")


def _share(value: float, top: float) -> float:
    return min(1.0, max(0.0, value / top)) if top > 0 else 0.0


def _cells(
    room: Room,
    means: Mapping[Task, float],
    top: Mapping[Task, float],
    trained: set[Task],
) -> tuple[str, list[Html]]:
    shapes = []
    for x in range(room.columns):
        for y in range(room.rows):
            at = (x, y)
            cell = {"x": x + 0.04, "y": y + 0.04, "width": 0.92, "height": 0.92, "rx": 0.12}
            if at not in means:
                shapes.append(tag("rect", **cell, class_="cell"))
                if at in trained:
                    shapes.append(tag("circle", cx=x + 0.5, cy=y + 0.5, r=0.09, class_="trained"))
                continue
            share = _share(means[at], top[at])
            told = f"({x}, {y}): {means[at]:.2f} of {top[at]:.2f}"
            value = tag("text", f"{means[at]:.0f}" if top[at] >= 10 else f"{means[at]:.1f}",
                        x=x + 0.5, y=y + 0.63,
                        class_="strong" if share > 0.5 else None)  # fmt: skip
            held = tag("rect", tag("title", told), **cell, class_="held",
                       style=f"fill-opacity:{0.1 + 0.9 * share:.3f}")  # fmt: skip
            shapes += [tag("rect", **cell, class_="cell"), held, value]
            if at in trained:
                shapes.append(tag("circle", cx=x + 0.82, cy=y + 0.18, r=0.07, class_="trained"))
    return f"0 0 {room.columns} {room.rows}", shapes


def _points(
    scene: Disc | Plane,
    means: Mapping[Task, float],
    top: Mapping[Task, float],
    trained: set[Task],
) -> tuple[str, list[Html]]:
    """Points of a disc or a plane, y upwards."""
    if isinstance(scene, Disc):
        left = low = -scene.radius
        width = height = 2 * scene.radius
        shapes = [tag("circle", cx=0, cy=0, r=scene.radius, class_="cell")]
    else:
        (left, low), (right, high) = scene.low, scene.high
        width, height = right - left, high - low
        shapes = [tag("rect", x=left, y=-high, width=width, height=height, class_="cell")]
    unit = max(width, height) / 2
    for x, y in trained:
        shapes.append(
            tag("circle", cx=f"{x:.3f}", cy=f"{-y:.3f}", r=0.008 * unit, class_="trained")
        )
    for (x, y), mean in means.items():
        share = _share(mean, top[x, y])
        shapes.append(
            tag("circle", tag("title", f"({x:.2f}, {y:.2f}): {mean:.2f} of {top[x, y]:.2f}"),
                cx=f"{x:.3f}", cy=f"{-y:.3f}", r=0.05 * unit, class_="held",
                style=f"fill-opacity:{0.1 + 0.9 * share:.3f}")
        )  # fmt: skip
    rim = 0.02 * unit
    return f"{left - rim} {-low - height - rim} {width + 2 * rim} {height + 2 * rim}", shapes
