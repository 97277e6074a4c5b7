"""Q-learning in tables in plain PyTorch: what the C++ kernels are held to, bit by bit."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastad_kernels.drawing import LEAST_LOG, draw, normalise
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
        num_learners = settings.num_learners
        self._learners = torch.arange(num_learners, device=values.device)
        self._episode_step = torch.zeros_like(self._learners)  # (N,) since the episode began

    def scores(self, state: Tensor, temperature: float) -> Tensor:
        """(Q - max Q) / temperature in a state (N,) of every learner, (N, A), least `LEAST_LOG`."""
        q = self.values.index_select(0, state)
        return q.sub_(q.amax(dim=1, keepdim=True)).div_(temperature).clamp_(min=LEAST_LOG)

    def policy(self, state: Tensor, temperature: float, epsilon: float) -> Tensor:
        """Distributions (N, A): softmax(Q / temperature), mixed with uniform ones by `epsilon`.

        Args:
            state: (N,) int64, of every learner.
            temperature: 0 is greedy, ties uniform.
            epsilon: Probability mass spread uniformly over the actions, on top.
        """
        return normalise(self._weights(state, temperature), epsilon=epsilon, impl="auto")

    def act(
        self, state: Tensor, uniform: Tensor, temperature: float, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Draw actions (N,) by uniform numbers (N, 1) from `policy`; returns both."""
        weights = self._weights(state, temperature)
        return self._draw(weights, uniform, epsilon), weights  # distributions by then

    def learn(
        self,
        state: Tensor,
        action: Tensor,
        reward: Tensor,
        next_state: Tensor,
        terminated: Tensor,
        truncated: Tensor,
    ) -> None:
        """Learn from a step of every learner and, where an episode ended, from all of it again.

        Every step of a learner is to be told, so that it is known where its episodes begin.

        Args:
            state: (N,) int64.
            action: (N,) int64.
            reward: (N,) float32.
            next_state: (N,) int64, where the step ended.
            terminated: (N,) bool.
            truncated: (N,) bool.
        """
        entry = state * self.values.shape[1] + action
        discount = (~terminated).float().mul_(self.settings.gamma)
        step = entry, reward, next_state, discount
        self._update(*step)
        if self.settings.replay_sweeps == 0:
            return
        if self._memory is None:
            self._memory = EpisodeMemory(self.settings.episode_length, step)
        self._memory.write(self._episode_step, self._learners, *step)
        over = (terminated | truncated).nonzero()[:, 0]
        last_step = self._episode_step.index_select(0, over)
        self._episode_step += 1
        if len(over) == 0:
            return
        self._episode_step.index_fill_(0, over, 0)
        for _ in range(self.settings.replay_sweeps):
            for _, remembered in self._memory.backwards(over, last_step):
                self._update(*remembered)

    def _weights(self, state: Tensor, temperature: float) -> Tensor:
        """In proportion to the policy before it is mixed, (N, A)."""
        if temperature > 0:
            return self.scores(state, temperature).exp_()
        q = self.values.index_select(0, state)
        return (q == q.amax(dim=1, keepdim=True)).to(q.dtype)

    def _draw(self, weights: Tensor, uniform: Tensor, epsilon: float) -> Tensor:
        return draw(normalise(weights, epsilon=epsilon), uniform)

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
