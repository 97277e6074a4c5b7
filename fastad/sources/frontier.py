"""Frontier-based exploration (Yamauchi 1997): a planner that knows the rules, not the reward."""

import torch
from torch import Tensor

from fastad.envs.base import BatchedEnv, uniform_over
from fastad.sources.tabular import Experience, TabularSource

# Farther than any cell: the distance of a cell that is no candidate.
FAR = torch.iinfo(torch.int16).max


class Frontier(TabularSource):
    """Go to the nearest cell not yet visited, uniformly over the shortest-path actions.

    Cells are remembered per phase (rewards collected in the episode so far), over all episodes.
    Once the reward of a phase was seen, go to its cell and stay there; after the last reward of
    a multi-phase task, do nothing. Where every cell was visited in vain (the reward may have
    been in a start cell, which pays only on arrival), what was visited is forgotten.

    Args:
        env: A finite MDP, whose transitions the source is given.
        num_episodes: Length of the histories.
        generator: Draws the actions.
    """

    name = "frontier"
    knows = "the movement rules, not the reward"

    def __init__(self, env: BatchedEnv, *, num_episodes: int, generator: torch.Generator) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        rules = env.rules()
        assert rules is not None
        assert rules.transitions is not None
        moves = rules.transitions()  # (1 or N, S, A)
        graph, distances = _distances(moves)
        # Rows of the two tables below that belong to cell 0 of each learner, (N,).
        ones = torch.ones_like(self.learners)
        self._first_move = self.learners * self.num_cells if len(moves) > 1 else 0 * ones
        self._first_distance = graph * self.num_cells * ones
        self._moves = moves.flatten(0, 1)  # (., A) cells
        self._distances = distances.flatten(0, 1)  # (., S) int16
        idle = (moves == torch.arange(self.num_cells, device=self.device)[:, None]).all(dim=1)
        self._idle = idle | ~idle.any(dim=1, keepdim=True)  # (1 or N, A) actions that do nothing
        # FAR where visited, else 0: the shape that the nearest unvisited cell is sought with.
        num_states = self.num_learners * self.num_states
        self._visited = torch.zeros(num_states, dtype=torch.int16, device=self.device)
        # The cell of each phase's reward, -1 until it was seen.
        self._target = torch.full((self.num_learners * self.num_phases,), -1, device=self.device)

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Finite MDPs whose transitions are deterministic and known."""
        rules = env.rules()
        return rules is not None and rules.transitions is not None

    def policy(self, cell: Tensor) -> Tensor:
        """Uniform over the actions that begin a shortest path to where the learner wants to go."""
        self._visited.index_fill_(0, self.state, FAR)
        ends = self._moves.index_select(0, self._first_move + cell)  # (N, A)
        target = self._target.index_select(0, self.learners * self.num_phases + self.phase)
        rows = ends + self._first_distance[:, None]
        place = rows * self.num_cells + target.clamp(min=0)[:, None]
        to_target = self._distances.view(-1).index_select(0, place.view(-1)).view_as(ends)
        first = self.state - cell  # the state of cell 0 in this phase
        novel = self._visited.index_select(0, (ends + first[:, None]).view(-1)).view_as(ends)
        distance = torch.where((target >= 0)[:, None], to_target, novel)
        shortest = distance.amin(dim=1)
        # Only who has neither a target nor an unvisited neighbour must look farther.
        far = (shortest == FAR).nonzero()[:, 0]
        if len(far) > 0:
            found = self._look_far(cell[far], rows[far], first[far])
            distance.index_copy_(0, far, found)
            shortest.index_copy_(0, far, found.amin(dim=1))
        chosen = distance == shortest[:, None]
        if self.num_phases > 1:
            done = (self.phase == self.num_phases - 1)[:, None]
            chosen = torch.where(done, self._idle, chosen)
        return uniform_over(chosen)

    def look(self, cell: Tensor) -> Tensor:
        """As `policy`, and no cell is thereby visited."""
        visited = self._visited.clone()
        probs = self.policy(cell)
        self._visited = visited
        return probs

    def learn(self, experience: Experience) -> None:
        """Remember the cell, and whether it gave this phase's reward."""
        cell = experience.next_state % self.num_cells
        self._visited.index_fill_(0, self.first_state + self.phase * self.num_cells + cell, FAR)
        rewarded = (experience.reward != 0).nonzero()[:, 0]
        if len(rewarded) > 0:
            place = rewarded * self.num_phases + self.phase[rewarded]
            self._target.index_copy_(0, place, cell[rewarded])

    def _look_far(self, cell: Tensor, rows: Tensor, first: Tensor) -> Tensor:
        """Distance from the end of each action to the nearest unvisited cell.

        Args:
            cell: (n,) where the learners are.
            rows: (n, A) of `_distances`, the cells that the actions lead to.
            first: (n,) the state of cell 0 in the learners' present phase.

        Returns:
            (n, A) int16.
        """
        states = first[:, None] + torch.arange(self.num_cells, device=self.device)
        visited = self._visited[states]  # (n, S)
        lost = (visited.amin(dim=1) == FAR).nonzero()[:, 0]
        if len(lost) > 0:
            visited[lost] = 0
            visited[lost, cell[lost]] = FAR
            self._visited[states[lost]] = visited[lost]
        shape = (*rows.shape, self.num_cells)
        distances = self._distances.index_select(0, rows.view(-1)).view(shape)
        return torch.maximum(distances, visited[:, None]).amin(dim=2)


def _distances(moves: Tensor) -> tuple[Tensor, Tensor]:
    """Fewest steps between all cells, for every distinct graph among the tasks.

    Args:
        moves: (G, S, A) where each action leads.

    Returns:
        The graph of each task, (G,) int64, and distances (graphs, S, S) int16, [from, to]; FAR
        where there is no way.
    """
    # Tasks that only permute the actions share one graph.
    graphs = moves.sort(dim=2).values
    index = torch.zeros(len(moves), dtype=torch.int64, device=moves.device)
    if bool((graphs == graphs[:1]).all()):
        graphs = graphs[:1]
    else:
        graphs, index = graphs.unique(dim=0, return_inverse=True)
    num_graphs, num_cells, num_actions = graphs.shape
    itself = torch.eye(num_cells, dtype=torch.bool, device=moves.device)
    distances = torch.where(itself, 0, FAR).to(torch.int16).repeat(num_graphs, 1, 1)
    rows = torch.arange(num_graphs, device=moves.device)[:, None]
    while True:
        shorter = distances
        for action in range(num_actions):
            via = distances[rows, graphs[:, :, action]].clamp_(max=FAR - 1) + 1
            shorter = torch.minimum(shorter, via)
        if torch.equal(shorter, distances):
            return index, distances
        distances = shorter
