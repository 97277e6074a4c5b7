"""Q-learning (Watkins 1989) in tables, with optimism and replay of the episode just ended."""

from functools import cached_property

import torch
from fastad_kernels import QSettings, QTables, make_q_tables
from torch import Tensor

from fastad.envs.base import BatchedEnv
from fastad.sources.base import number, whole_number
from fastad.sources.tabular import Experience, TabularSource


class QLearning(TabularSource):
    """Tabular Q-learning: Q(s, a) += learning_rate * (r + gamma * max Q(s', .) - Q(s, a)).

    Truncation by the time limit bootstraps, termination does not.

    In Dark Room and Permuted learning_rate=0.6 initial_value=4 temperature=0.1 reach 0.89 of the
    optimum in 80 episodes; the defaults reach 0.65. In Hard, whose episodes pay once, so much
    optimism never wears off: 0.22 in 100 episodes, where the defaults reach 0.62.

    Args:
        env: A finite MDP, such as a grid world.
        num_episodes: Length of the histories.
        generator: Draws the actions.
        learning_rate: In (0, 1]; 1 is right for deterministic rules.
        gamma: Discount per step, in [0, 1].
        initial_value: Of every Q(s, a); above what the rewards are worth, it drives
            exploration.
        temperature: The policy is softmax(Q / temperature); 0 is greedy, ties uniform.
        epsilon: Probability mass spread uniformly over the actions, on top.
        replay_sweeps: How often the episode just ended is replayed, last step first. 0 is plain
            online Q-learning.
    """

    name = "q-learning"
    counts_steps = False  # its tables do

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        learning_rate: float = 1.0,
        gamma: float = 0.9,
        initial_value: float = 0.3,
        temperature: float = 0.02,
        epsilon: float = 0.0,
        replay_sweeps: int = 3,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self.learning_rate = number("learning_rate", learning_rate, low=1e-6, high=1.0)
        self.gamma = number("gamma", gamma, low=0.0, high=1.0)
        self.temperature = number("temperature", temperature, low=0.0)
        self.epsilon = number("epsilon", epsilon, low=0.0, high=1.0)
        self.replay_sweeps = whole_number("replay_sweeps", replay_sweeps, low=0)
        initial_value = number("initial_value", initial_value, low=float("-inf"))
        shape = (self.num_learners * self.num_states, self.num_actions)
        self.q = torch.full(shape, initial_value, device=self.device)

    @cached_property
    def _tables(self) -> QTables:
        """Made at the first step: a source that is only looked at compiles no kernels."""
        settings = QSettings(
            self.num_learners,
            self.episode_length,
            self.learning_rate,
            self.gamma,
            self.replay_sweeps,
        )
        return make_q_tables(self.q, settings)

    def policy(self, cell: Tensor) -> Tensor:
        """Softmax or greedy over the table's rows, mixed with `epsilon` uniform."""
        return self._tables.policy(self.state, self.temperature, self.epsilon)

    def choose(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from `policy`, in the same pass."""
        uniform = torch.rand((self.num_learners, 1), generator=self.generator, device=self.device)
        return self._tables.act(self.state, uniform, self.temperature, self.epsilon)

    def learn(self, experience: Experience) -> None:
        """Update online; where an episode ended, replay it."""
        self._tables.learn(*experience)
