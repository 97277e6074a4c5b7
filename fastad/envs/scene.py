"""How people see an environment: where it takes place, and what lies where in a task.

A family that can be drawn says so by `TaskFamily.scene`, `marks` and `place`; the replay of a
report, the terminal and pictures follow from these. The model sees none of it.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Mark:
    """Something that lies in the scene of one task, most often hidden from who acts.

    Attributes:
        name: What it is, such as "goal"; its first letter stands for it where there is no room.
        x: Where, in the scene's coordinates.
        y: Where.
        radius: How far it reaches; None: a cell or a point.
    """

    name: str
    x: float
    y: float
    radius: float | None = None


@dataclass(frozen=True)
class Room:
    """Cells; x counts them from the left, y from above.

    Attributes:
        columns: Cells from left to right.
        rows: Cells from top to bottom.
        walls: Cells (x, y) that nobody can enter.
    """

    columns: int
    rows: int
    walls: tuple[tuple[int, int], ...] = ()
    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Disc:
    """A disc around the origin; y points upwards, headings are angles from x towards y."""

    radius: float
    kind: ClassVar[str] = "disc"


@dataclass(frozen=True)
class Plane:
    """A rectangle between two corners; y points upwards."""

    low: tuple[float, float]
    high: tuple[float, float]
    kind: ClassVar[str] = "plane"


@dataclass(frozen=True)
class Arms:
    """A bandit's arms, where nobody is anywhere; the mark of one has its number as x, mean as y.

    Attributes:
        arms: How many.
    """

    arms: int
    kind: ClassVar[str] = "arms"


Scene = Room | Disc | Plane | Arms


def scene_json(scene: Scene | None) -> dict[str, Any]:
    """A scene as JSON, by its kind; "steps" where there is none."""
    return {"kind": "steps"} if scene is None else {"kind": scene.kind, **asdict(scene)}
