"""Q-learning in tables in plain PyTorch: what the C++ kernels are held to, bit by bit."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastad_kernels.drawing import LEAST_LOG
from fastad_kernels.episodes import EpisodeMemory


class QSettings(NamedTuple):
    """Of N Q-learners."""

    num_learners: int
    episode_length: int  # no episode is longer
    learning_rate: float  # in (0, 1]
    gamma: float  # discount per step
    replay_sweeps: int  # how often an episode that ended is learned again, last step first


class QTables:
    """What N independent Q-learners (Watkins 1989) know, in a table each.

    Q(s, a) += learning_rate * (r + gamma * max Q(s', .) - Q(s, a)); nothing follows termination.
    A state is a row of all tables, learner * S + its own state.

    Args:
        values: Q, (N * S, A) float32 contiguous; changed in place.
        settings: Of the learners.
    """

    def __init__(self, values: Tensor, settings: QSettings) -> None:
        self.values, self.settings = values, settings
        self._memory: EpisodeMemory | None = None  # made when there is something to remember

    def scores(self, state: Tensor, temperature: float) -> Tensor:
        """(Q - max Q) / temperature in a state (N,) of every learner, (N, A), least `LEAST_LOG`."""
        q = self.values.index_select(0, state)
        return q.sub_(q.amax(dim=1, keepdim=True)).div_(temperature).clamp_(min=LEAST_LOG)

    def learn(
        self,
        state: Tensor,
        action: Tensor,
        reward: Tensor,
        next_state: Tensor,
        terminated: Tensor,
        ended: Tensor,
        episode_step: Tensor,
    ) -> None:
        """Learn from a step of every learner and, where an episode ended, from all of it again.

        Args:
            state: (N,) int64.
            action: (N,) int64.
            reward: (N,) float32.
            next_state: (N,) int64, where the step ended.
            terminated: (N,) bool.
            ended: (N,) bool, terminated or truncated.
            episode_step: (N,) int64, since the episode began, from 0.
        """
        entry = state * self.values.shape[1] + action
        discount = (~terminated).float().mul_(self.settings.gamma)
        step = entry, reward, next_state, discount
        self._update(*step)
        if self.settings.replay_sweeps == 0:
            return
        if self._memory is None:
            self._memory = EpisodeMemory(self.settings.episode_length, step)
        learners = torch.arange(self.settings.num_learners, device=state.device)
        self._memory.write(episode_step, learners, *step)
        over = ended.nonzero()[:, 0]
        if len(over) == 0:
            return
        last_step = episode_step.index_select(0, over)
        for _ in range(self.settings.replay_sweeps):
            for _, remembered in self._memory.backwards(over, last_step):
                self._update(*remembered)

    def _update(self, entry: Tensor, reward: Tensor, next_state: Tensor, discount: Tensor) -> None:
        """One backup at `entry`, a position in the flattened tables; all (n,)."""
        best = self.values.index_select(0, next_state).amax(dim=1)
        target = best.mul_(discount).add_(reward)
        table = self.values.view(-1)
        if self.settings.learning_rate < 1:
            target = table.index_select(0, entry).lerp_(target, self.settings.learning_rate)
        table.index_copy_(0, entry, target)


def make_q_tables(values: Tensor, settings: QSettings) -> QTables:
    """Tables of the C++ kernels where these can be used, else of plain PyTorch: the same bits."""
    if values.is_cpu and values.dtype == torch.float32:
        from fastad_kernels import native

        if native.why_unavailable() is None and native.NativeQTables.takes(values, settings):
            return native.NativeQTables(values, settings)
    return QTables(values, settings)
