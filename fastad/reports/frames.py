"""Frames of a rollout in characters: where the agent is, what it did, and what that returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.actions import ActionDistribution, DiagonalGaussian
from fastad.base.errors import printable
from fastad.base.terminal import COARSE, FINE, sparkline
from fastad.envs.family import TaskFamily
from fastad.envs.pictures import POOL_COLUMNS, write_plane, write_pool
from fastad.envs.scene import Disc, Mark, Plane, Room
from fastad.reports.choices import choice_names, choice_sizes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

BAR, NAME = 20, 18  # characters of a bar at 1, and of an action's name
ROWS_BESIDE = 8  # lines of a terminal that are not the drawing's
COLOURS = {"goal": "green", "key": "yellow", "door": "blue", "platform": "green"}


class Frame:
    """A rollout up to a step: what is drawn of it.

    Args:
        family: Of the environment.
        task: (K,), which the model is not told.
        actions: The environment's.
        num_episodes: Of the rollout.
        optimal: Return; None where nobody knows it.
        env: The environment's name.

    Attributes:
        moment: The latest step.
        returns: Of the episodes that are over.
        running: What the running episode, or that just ended, has returned.
        trail: Where the agent was in it, (x, y).
        counts: How often each of the actions was taken, where they are several.
    """

    def __init__(
        self,
        family: TaskFamily,
        task: Tensor,
        actions: ActionDistribution,
        *,
        num_episodes: int,
        optimal: float | None,
        env: str,
    ) -> None:
        self.family, self.actions, self.env = family, actions, printable(env)
        self.num_episodes, self.optimal = num_episodes, optimal
        self.scene, self.marks = family.scene(), family.marks(task)
        self.words, self.names = printable(family.words(task)), choice_names(family, actions)
        self.moment: Transition | None = None
        self.returns: list[float] = []
        self.running, self.step, self._ended = 0.0, 0, True
        self.trail: list[tuple[float, ...]] = []
        self.counts = torch.zeros(actions.num_params, dtype=torch.int64)

    def take(self, moment: Transition) -> None:
        """The next step, of this environment alone: without the axis of environments."""
        if self._ended:
            self.running, self.step, self.trail = 0.0, 0, []
        self.moment, self.step = moment, self.step + 1
        self.running += float(moment.reward)
        place = None if self.scene is None else self.family.place(moment.observation)
        if place is not None:
            self.trail.append(tuple(place.tolist()))
        if self.names is not None and moment.action.ndim == 0:
            self.counts[int(moment.action)] += 1
        self._ended = bool(moment.terminated) or bool(moment.truncated)
        if self._ended:
            self.returns.append(self.running)

    @property
    def episode(self) -> int:
        """The episode of the latest step, from 1."""
        return len(self.returns) + (not self._ended)


def draw(frame: Frame, console: Console) -> RenderableType:
    """The frame as rich draws it, in characters that the console has."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    assert frame.moment is not None
    head = Text.assemble(
        (frame.env, "bold"), f"  episode {frame.episode} of {frame.num_episodes}, step {frame.step}"
    )
    head.append(f"\n{frame.words}; the model is not told", style="dim")
    body = Table.grid(padding=(0, 4))
    height = max(console.size.height - ROWS_BESIDE, 5)
    drawing, beside = _drawing(frame, height), _actions(frame, height, _is_fine(console))
    body.add_row(*(part for part in (drawing, beside) if part is not None))
    return Group(head, Text(), body, Text(), _returns(frame, _is_fine(console)))


def _drawing(frame: Frame, height: int) -> Text | None:
    """Where the agent is; None where it is nowhere."""
    scene = frame.scene
    if not frame.trail:
        return None
    if isinstance(scene, Room):
        return _room(scene, frame.marks, frame.trail, height)
    from rich.text import Text

    mark, place = frame.marks[0], frame.trail[-1]
    if isinstance(scene, Disc) and len(place) > 2 and mark.radius is not None:
        lines = write_pool((mark.x, mark.y, mark.radius), place)
    elif isinstance(scene, Plane):
        lines = write_plane(scene.low, scene.high, (mark.x, mark.y, mark.radius or 0.0), place)
    else:
        return None
    return Text("\n".join(line.ljust(POOL_COLUMNS) for line in lines.splitlines()))


def _room(room: Room, marks: tuple[Mark, ...], trail: list[tuple[float, ...]], height: int) -> Text:
    """Cells as letters: @ for oneself, + where one was in this episode, # for walls."""
    from rich.text import Text

    x, y = (int(at) for at in trail[-1][:2])
    letters = {(int(was[0]), int(was[1])): ("+", "cyan") for was in trail}
    letters |= dict.fromkeys(room.walls, ("#", ""))
    for mark in marks:
        letters[int(mark.x), int(mark.y)] = (
            mark.name[0].upper(),
            f"bold {COLOURS.get(mark.name, 'green')}",
        )
    letters[x, y] = ("@", "bold reverse")
    # Of a room higher than the terminal, the part around oneself.
    first = max(0, min(y - height // 2, room.rows - height))
    text = Text()
    for row in range(first, min(first + height, room.rows)):
        for column in range(room.columns):
            letter, style = letters.get((column, row), (".", "dim"))
            text.append(letter, style)
            text.append(" ")
        text.append("\n")
    text.right_crop()
    return text


def _actions(frame: Frame, height: int, is_fine: bool) -> Table:
    """What the latest action was drawn from, a line for each option or number."""
    from rich.table import Table
    from rich.text import Text

    assert frame.moment is not None
    table, moment = Table.grid(padding=(0, 1)), frame.moment
    if isinstance(frame.actions, DiagonalGaussian):
        middle, deviation = frame.actions.middle_and_spread(moment.policy)
        for index, (taken, mean, std) in enumerate(
            zip(moment.action.tolist(), middle.tolist(), deviation.tolist(), strict=True)
        ):
            table.add_row(f"{index}", f"{taken:+.2f}", Text(f"from {mean:+.2f} ± {std:.2f}", "dim"))
        return table
    assert frame.names is not None
    probabilities = moment.policy.tolist()
    taken = _taken(moment.action, frame)
    shown = list(range(len(probabilities)))
    if len(shown) > height:  # the likeliest, in their order
        shown = sorted(sorted(shown, key=lambda option: -probabilities[option])[:height])
    is_bandit = frame.scene is not None and frame.scene.kind == "arms"
    for option in shown:
        probability = probabilities[option]
        bar = ("█" if is_fine else "#") * round(probability * BAR)
        style = "bold" if option in taken else ""
        row = [
            Text(">" if option in taken else " ", style),
            Text(printable(frame.names[option])[:NAME], style),
            Text(f"{probability:4.2f}", style),
            Text(bar.ljust(BAR), "cyan"),
        ]
        if is_bandit:
            count, mean = int(frame.counts[option]), frame.marks[option].y
            row.append(Text(f"{count:4d} pulls, mean {mean:.2f}", "dim"))
        table.add_row(*row)
    return table


def _taken(action: Tensor, frame: Frame) -> set[int]:
    """The options that were taken, counted through all choices."""
    sizes = choice_sizes(frame.actions)
    assert sizes is not None
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    taken = action.reshape(-1).tolist()
    return {first + option for first, option in zip(firsts, taken, strict=True)}


def _returns(frame: Frame, is_fine: bool) -> Text:
    """Of this episode, and of those before."""
    from rich.text import Text

    optimum = "" if frame.optimal is None else f", an optimal policy returns {frame.optimal:.4g}"
    text = Text(f"return {frame.running:.4g}{optimum}\n")
    if frame.returns:
        curve = sparkline(frame.returns, levels=FINE if is_fine else COARSE)
        text.append("episodes ").append(curve, "green").append(f" {frame.returns[-1]:.4g}")
    return text


def _is_fine(console: Console) -> bool:
    """Whether it has more characters than ASCII."""
    return console.encoding.lower().startswith("utf")
