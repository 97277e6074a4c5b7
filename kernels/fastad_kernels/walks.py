"""Episodes in worlds that are tables, in plain PyTorch: what the C++ kernel is held to."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Implementation = Literal["auto", "reference"]


class World(NamedTuple):
    """What `N` walkers share, and what each of them is after; all tensors on one device.

    Attributes:
        moves: (S, A) int64, the cell that every action leads to from every cell.
        observations: (S, K) int64, what is observed in every cell.
        targets: (N, P) int64, the cell that pays next, by how often the episode has paid; -1 where
            none does, as at the last of several. With P = 1 the only one pays whenever a step ends
            on it.
        permutation: (N, A) int64, which action each one is to a walker; None where all are what
            they seem.
        episode_length: Steps until an episode is truncated.
        terminates: Whether it ends, terminated, as it is paid for the last time: P - 1 times, of
            P > 1.
    """

    moves: Tensor
    observations: Tensor
    targets: Tensor
    permutation: Tensor | None
    episode_length: int
    terminates: bool


class Walked(NamedTuple):
    """What a step led to: tensors that nothing changes afterwards, and nobody may write to.

    Attributes:
        observation: (N, K) int64, the first of the next episode where one ended; where none did the
            very tensor `final_observation` is.
        reward: (N,) float32.
        terminated: (N,) bool.
        truncated: (N,) bool.
        final_observation: (N, K) int64, where the step ended.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor


class Walks:
    """`N` walkers, each in an episode of its own.

    Args:
        world: Where, and what pays.
        lockstep: Whether the host may count the steps of episodes that all end together. A step
            that is captured in a CUDA graph knows nothing of what the host counts; all state is
            updated in place without.
    """

    @torch.inference_mode(False)  # what is updated in place, whoever takes the first step
    def __init__(self, world: World, *, lockstep: bool = False) -> None:
        self.world = world
        self.num_cells, self.num_actions = world.moves.shape
        num_walkers, self.num_phases = world.targets.shape
        if world.terminates and self.num_phases == 1:
            raise ValueError("terminates=True ends episodes as the last of several targets pays")
        # By action * S + cell: one index is looked up quicker than two. In this order an action
        # that does not exist leads out of the table, and is refused.
        self._moves_by_action = world.moves.t().flatten()
        self._cell = world.targets.new_zeros(num_walkers)
        self._time = torch.zeros_like(self._cell)
        self._collected = torch.zeros_like(self._cell)[:, None]  # (N, 1) payments so far
        # Of numbers PyTorch would make tensors at every step.
        self._one = torch.ones_like(self._cell)
        self._limit = torch.full_like(self._cell, world.episode_length)
        self._never = torch.zeros_like(self._cell, dtype=torch.bool)
        self._first_targets = world.targets[:, 0]
        self._lockstep, self._elapsed = lockstep and not world.terminates, 0
        self._latest: tuple[Tensor | None, Tensor] = None, self._cell  # an observation, its cells

    @property
    def collected(self) -> Tensor:
        """How often the running episodes have paid, where P > 1, (N, 1) int64."""
        return self._collected

    def cell(self, observation: Tensor) -> Tensor | None:
        """The cells (N,) int64 of what a step has just led to; None of any other tensor."""
        latest, cell = self._latest
        return cell if observation is latest else None

    def reset(self, start: Tensor) -> Tensor:
        """Begin an episode everywhere, in the cells `start` (N,) int64; returns observations."""
        observation = self.world.observations.index_select(0, start)  # refuses what is no cell
        self._cell.copy_(start)
        self._time.zero_()
        self._collected.zero_()
        self._elapsed = 0
        return observation

    @property
    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, steps of the episodes, and payments in them: what `go_on` goes on from."""
        return self._cell, self._time + self._elapsed, self._collected

    def go_on(self, state: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take the place of other walkers in the same world, by their `state`; not in lockstep."""
        assert not self._lockstep
        for own, other in zip((self._cell, self._time, self._collected), state, strict=True):
            own.copy_(other)

    def step(self, action: Tensor, start: Tensor) -> Walked:
        """Move, pay, and begin a new episode where one is over.

        Args:
            action: (N,) int64, below A.
            start: (N,) int64, the cells in which new episodes begin.

        Raises:
            IndexError: If there is no such action, on CPUs; nobody has moved then. Where actions
                are permuted, PyTorch raises a RuntimeError.
        """
        world = self.world
        if world.permutation is not None:
            action = world.permutation.gather(1, action[:, None])[:, 0]
        index = torch.add(self._cell, action, alpha=self.num_cells)
        cell = self._moves_by_action.index_select(0, index)
        if self.num_phases > 1:
            rewarded = cell == world.targets.gather(1, self._collected)[:, 0]
            self._collected += rewarded[:, None]
        else:
            rewarded = cell == self._first_targets
        final = world.observations.index_select(0, cell)
        self._latest = final, cell
        if self._lockstep:
            self._elapsed += 1
            if self._elapsed < world.episode_length:
                self._cell.copy_(cell)
                return Walked(final, rewarded.float(), self._never, self._never.clone(), final)
            self._elapsed = 0
            truncated = ~self._never
        else:
            self._time += self._one
            truncated = self._time == self._limit
        if world.terminates:
            terminated = (self._collected == self.num_phases - 1)[:, 0]
            ended = terminated | truncated
        else:
            terminated, ended = self._never, truncated
        torch.where(ended, start, cell, out=self._cell)
        self._time.masked_fill_(ended, 0)
        if self.num_phases > 1:
            self._collected.masked_fill_(ended[:, None], 0)
        observation = world.observations.index_select(0, self._cell)
        return Walked(observation, rewarded.float(), terminated, truncated, final)


def make_walks(
    world: World, *, lockstep: bool = False, impl: Implementation = "reference"
) -> Walks:
    """See `Walks`; "auto" takes the C++ kernel where it can be used, which does the same."""
    if impl == "auto" and world.moves.is_cpu:
        from fastad_kernels import native

        if native.why_unavailable() is None:
            from fastad_kernels.native.walks import NativeWalks

            return NativeWalks(world)
    return Walks(world, lockstep=lockstep)
