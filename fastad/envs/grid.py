"""What the grid worlds share: a walled square, five actions and cells that give a reward."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from fastad_kernels import Walks, World, make_walks
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv, Rules, uniform_over
from fastad.envs.family import EnvSpec, TaskFamily
from fastad.envs.pictures import draw_room
from fastad.envs.scene import Mark, Room

# No-op, up, right, down, left as changes of (x, y). y grows downwards, as rows of text do.
STEPS = ((0, 0), (0, -1), (1, 0), (0, 1), (-1, 0))


@dataclass(frozen=True)
class GridFamily(TaskFamily):
    """`size` x `size` rooms whose invisible target cells reward whoever ends a step on them.

    A task says where the targets are; they pay in turn. The cell (x, y) has the number
    `x * size + y`. Every episode is truncated after `episode_length` steps, as by Gymnasium's
    `TimeLimit`.
    """

    size: int = 9
    """Cells along each wall; odd where episodes start at the centre."""
    episode_length: int = 20
    """Steps per episode."""

    task_arguments: ClassVar = {"goal": 2}
    action_names: ClassVar[tuple[str, ...]] = ("stay", "up", "right", "down", "left")
    landmarks: ClassVar[tuple[str, ...]] = ("goal",)  # what lies on each target cell
    # Targets that pay once each, in turn, and 1 for the rest of the episode. 1 in all: the only
    # target pays on every step that ends on it.
    num_phases: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse rooms without a centre to start from, and episodes without a step."""
        has_centre = self.size % 2 == 1
        if self.size < 2 or not (has_centre or self.random_start):
            centred = "odd, 3 or more, to have a centre to start from"
            must = "2 or more" if self.random_start else centred
            raise UserError(f"size={self.size} is not possible; it must be {must}")
        if self.episode_length < 1:
            raise UserError(f"episode_length={self.episode_length} is not possible; use 1 or more")

    @property
    def terminates(self) -> bool:
        """Whether collecting the last target ends the episode, terminated."""
        return False

    @property
    def random_start(self) -> bool:
        """Whether episodes start in uniformly random cells instead of the centre."""
        return False

    @property
    def task_fields(self) -> dict[str, int]:
        """The columns of a task, and one past the largest value of each."""
        return {
            f"{name}_{axis}": self.size
            for name, width in self.task_arguments.items()
            if width == 2
            for axis in "xy"
        }

    def spec(self) -> EnvSpec:
        """See `TaskFamily.spec`."""
        room = spaces.MultiDiscrete([self.size, self.size])
        moves = spaces.Discrete(len(STEPS))
        return EnvSpec(room, moves, self.episode_length, fixed_length=not self.terminates)

    def cells(self, tasks: Tensor) -> Tensor:
        """The numbers of the target cells, in the order in which they pay, (M, targets) int64."""
        num_targets = len(self.landmarks)
        return tasks[:, 0 : 2 * num_targets : 2] * self.size + tasks[:, 1 : 2 * num_targets : 2]

    def scene(self) -> Room:
        """See `TaskFamily.scene`."""
        return Room(self.size, self.size)

    def marks(self, task: Tensor) -> tuple[Mark, ...]:
        """The targets; see `TaskFamily.marks`."""
        cells = self.cells(task[None])[0].tolist()
        places = (divmod(cell, self.size) for cell in cells)
        return tuple(Mark(name, *at) for name, at in zip(self.landmarks, places, strict=True))

    def place(self, observation: Tensor) -> Tensor:
        """See `TaskFamily.place`: it is what is observed."""
        return observation

    def make(self, tasks: Tensor, generator: torch.Generator) -> "GridEnv":
        """See `TaskFamily.make`."""
        return GridEnv(self, tasks, generator)

    def check_tasks(self, tasks: Tensor) -> None:
        """Refuse tasks (N, K) that are not cells of the room."""
        names = ", ".join(self.task_fields)
        if tasks.ndim != 2 or tasks.shape[1] != len(self.task_fields) or tasks.shape[0] == 0:
            raise UserError(
                f"tasks of shape {tuple(tasks.shape)} do not fit {self.name}; "
                f"give (N, {len(self.task_fields)}) with N >= 1 and the columns {names}"
            )
        if tasks.is_floating_point():
            raise UserError(f"tasks are {tasks.dtype}; {self.name} wants int64 columns {names}")
        limits = tasks.new_tensor(list(self.task_fields.values()))
        wrong = ((tasks < 0) | (tasks >= limits)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise UserError(
                f"tasks[{row}] has {list(self.task_fields)[column]}={int(tasks[row, column])}; "
                f"with size={self.size} it must lie in 0..{int(limits[column]) - 1}"
            )


class GridEnv(BatchedEnv):
    """The rooms of one `GridFamily`.

    The observation is one's own (x, y), int64, (N, 2). Actions are 0 no-op, 1 up (y - 1),
    2 right (x + 1), 3 down (y + 1), 4 left (x - 1); a move into a wall leaves one where one is.

    Args:
        family: Says what pays, and when episodes begin and end.
        tasks: (N, K) int64, the columns of `GridFamily.task_fields`.
        generator: Draws the start cells, where these are random.
    """

    family: GridFamily

    def __init__(self, family: GridFamily, tasks: Tensor, generator: torch.Generator) -> None:
        family.check_tasks(tasks)
        super().__init__(family, tasks.long(), generator)
        self.num_phases, self._random_start = family.num_phases, family.random_start
        size, device = family.size, tasks.device
        self._num_cells = size * size
        cells = torch.arange(self._num_cells, device=device)
        self._coordinates = torch.stack((cells // size, cells % size), dim=1)  # (S, 2)
        ends = self._coordinates[:, None] + torch.tensor(STEPS, device=device)  # (S, A, 2)
        ends = ends.clamp(0, size - 1)
        self._moves = ends[..., 0] * size + ends[..., 1]  # (S, A)
        self._start = torch.full((self.num_envs,), self._num_cells // 2, device=device)
        # (N, num_phases): the cell that pays next, by targets collected so far; -1 where none.
        targets = family.cells(self.tasks)
        padding = (0, self.num_phases - targets.shape[1])
        self._targets = torch.nn.functional.pad(targets, padding, value=-1)
        self._first_start = self._draw_start()

    @cached_property
    def _walks(self) -> Walks:
        """Made when they begin: an environment that is only asked compiles no kernels."""
        # A random start is drawn at every step, needed or not: data of a seed stay what they are.
        walks = make_walks(self._world(), lockstep=not self._random_start, impl="auto")
        walks.reset(self._first_start)
        return walks

    def _world(self) -> World:
        """What the walks go by."""
        return World(
            self._moves, self._coordinates, self._targets, permutation=None,
            episode_length=self.episode_length, terminates=not self.fixed_length,
        )  # fmt: skip

    def reset(self) -> Tensor:
        """Begin a new episode everywhere; returns observations (N, 2)."""
        return self._walks.reset(self._draw_start())

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, collect, and begin a new episode where this one is over; see `BatchedEnv.step`."""
        walked = self._walks.step(action, self._draw_start())
        self.final_observation = walked.final_observation
        return walked[:4]

    def untrack(self) -> None:
        """See `BatchedEnv.untrack`."""
        before, self._walks = self._walks, make_walks(self._world())
        self._walks.go_on(before.state)

    def optimal_return(self) -> Tensor:
        """Rewards that shortest paths collect in time, in the mean over starts; (N,) float32."""
        starts = torch.arange(self._num_cells, device=self.device)
        if not self._random_start:
            starts = self._start[:1]
        # Standing on a target already, one still has to end a step there: a no-op.
        targets = self._targets[:, : len(self.family.landmarks)].unsqueeze(2).unbind(dim=1)
        steps = self._distance(starts, targets[0]).clamp(min=1)  # (N, starts)
        if self.num_phases == 1:
            return (self.episode_length - steps + 1).clamp(min=0).float().mean(dim=1)
        in_time = (steps <= self.episode_length).float()
        for before, target in pairwise(targets):
            steps = steps + self._distance(before, target).clamp(min=1)
            in_time = in_time + (steps <= self.episode_length).float()
        return in_time.mean(dim=1)

    def expert(self, observation: Tensor, phase: Tensor | None = None) -> Tensor:
        """Uniform over the actions that begin a shortest path to the target that pays next."""
        collected = self._walks.collected if phase is None else phase[:, None]
        target = self._targets.gather(1, collected)  # (N, 1)
        steps = self._distance(self._ends(self.rules().state(observation)), target)  # (N, A)
        return uniform_over((steps == steps.amin(dim=1, keepdim=True)) | (target < 0))

    def rules(self) -> Rules:
        """Cells as states; see `BatchedEnv.rules`."""
        rules = Rules.of(
            self.observation_space, num_phases=self.num_phases, transitions=self._transitions
        )

        def state(observation: Tensor) -> Tensor:
            walks = vars(self).get("_walks")  # if they have begun
            # Where a step has just led need not be numbered again.
            cell = None if walks is None else walks.cell(observation)
            return rules.state(observation) if cell is None else cell

        return replace(rules, state=state)

    def render_text(self, observation: Tensor, index: int) -> str:
        """The room: @ for oneself, the landmarks' letters for what is hidden."""
        size, letters = self.family.size, self._letters(index)
        x, y = observation[index].tolist()
        letters[x, y] = "@"
        rows = [" ".join(letters.get((x, y), ".") for x in range(size)) for y in range(size)]
        return "\n".join(rows) + "\n"

    def render_picture(self, observation: Tensor, index: int) -> np.ndarray:
        """See `draw_room`."""
        x, y = observation[index].tolist()
        return draw_room(self.family.size, self._letters(index), (x, y))

    def _letters(self, index: int) -> dict[tuple[int, int], str]:
        """The target cells (x, y) of environment `index`, and the landmarks' letters."""
        marks = self.family.marks(self.tasks[index])
        return {(int(mark.x), int(mark.y)): mark.name[0].upper() for mark in marks}

    def _transitions(self) -> Tensor:
        """The cell that every action leads to from every cell, (1, S, A) or (N, S, A)."""
        return self._moves[None].clone()

    def _ends(self, cell: Tensor) -> Tensor:
        """The cells that the actions lead to from `cell` (N,), (N, A)."""
        return self._moves.index_select(0, cell)

    def _distance(self, start: Tensor, end: Tensor) -> Tensor:
        """Fewest steps between cells given by their numbers, which broadcast; int64."""
        return (self._coordinates[start] - self._coordinates[end]).abs().sum(-1)

    def _draw_start(self) -> Tensor:
        """The cell that every environment's next episode begins in, (N,) int64."""
        if not self._random_start:
            return self._start
        return torch.randint(
            self._num_cells, (self.num_envs,), generator=self.generator, device=self.device
        )
