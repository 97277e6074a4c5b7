"""Learners with tables of (learner, state, action), and what they have in common."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv
from fastad.sources.base import Source
from fastad.sources.phases import Phases
from fastad.sources.visited import Visited


class Experience(NamedTuple):
    """One step of every learner in table coordinates.

    A state is a row of the learners' stacked tables: learner * num_states + phase * num_cells +
    cell. The cell is what is observed, numbered, and the phase what the MDP needs besides, see
    `Rules`.
    """

    state: Tensor  # (N,) int64
    action: Tensor  # (N,) int64, as executed
    reward: Tensor  # (N,) float32
    next_state: Tensor  # (N,) int64, where the step really ended, before any auto-reset
    terminated: Tensor  # (N,) bool
    truncated: Tensor  # (N,) bool

    @property
    def ended(self) -> Tensor:
        """Where an episode ended, (N,) bool."""
        return self.terminated | self.truncated


class TabularSource(Source):
    """Keeps each learner's state; subclasses add `policy` and `learn`.

    Learners may be at different steps of their episodes, which may differ in length.
    """

    counts_steps: ClassVar[bool] = True  # False: nobody looks at `episode_step`

    def __init__(self, env: BatchedEnv, *, num_episodes: int, generator: torch.Generator) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        rules = env.rules()
        assert rules is not None, "make_source checks that the source fits"
        self.num_cells, self.num_phases = rules.num_states, rules.num_phases
        self.phases = Phases(self.num_learners, self.num_phases, self.device)
        if self.phases.fact:
            self.is_told(self.phases.fact)
        self.num_states = self.num_cells * self.num_phases
        self.episode_length = env.episode_length
        self.learners = torch.arange(self.num_learners, device=self.device)
        self.first_state = self.learners * self.num_states  # (N,)
        self.episode_step = torch.zeros_like(self.learners)  # (N,) since the episode began
        self.state = self.first_state  # (N,)
        self._to_cell = rules.state
        # The last observation, its cell and state, see `_place`.
        self._placed: tuple[Tensor | None, Tensor, Tensor] = None, self.learners, self.learners

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Finite MDPs, such as grid worlds."""
        return env.is_discrete and env.rules() is not None

    @property
    def phase(self) -> Tensor:
        """The phase that each learner is in, (N,)."""
        return self.phases.now

    @abstractmethod
    def policy(self, cell: Tensor) -> Tensor:
        """Action distributions (N, A) in `self.state`, whose cells are given, (N,)."""

    @abstractmethod
    def learn(self, experience: Experience) -> None:
        """Learn from one step; `self.phase` and `self.episode_step` are still those before it."""

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions from the policy in the current states."""
        cell, self.state = self._place(observation, self.phase)
        return self.choose(cell)

    def choose(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions (N,) from the policy; returns both."""
        probs = self.policy(cell)
        return self.draw(probs), probs

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Translate the step to table coordinates, learn from it and move on."""
        phase = self.phases.after(transition.reward)
        _, next_state = self._place(final_observation, phase)
        experience = Experience(
            self.state,
            transition.action,
            transition.reward,
            next_state,
            transition.terminated,
            transition.truncated,
        )
        self.learn(experience)
        if self.counts_steps or self.num_phases > 1:
            ended = experience.ended
            self.phases.move_on(phase, ended)
            self.episode_step = (self.episode_step + 1).masked_fill_(ended, 0)

    def would_act(self, visited: Visited) -> Tensor:
        """Look every state up in the tables as they are now; see `Source.would_act`."""
        present = self.state, self.phases.now, self.episode_step
        probs = []
        for step in zip(*(field.unbind(dim=1) for field in visited), strict=True):
            observation, self.phases.now, self.episode_step = step
            cell = self._to_cell(observation)
            self.state = self._state(cell, self.phase)
            probs.append(self.look(cell))
        self.state, self.phases.now, self.episode_step = present
        return torch.stack(probs, dim=1)

    def look(self, cell: Tensor) -> Tensor:
        """As `policy`, without a change to any table."""
        return self.policy(cell)

    def _place(self, observation: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and states, (N,) each; within an episode a step begins where the last one ended."""
        if observation is self._placed[0]:
            _, cell, state = self._placed
            if self.num_phases == 1:
                return cell, state
        else:
            cell = self._to_cell(observation)
        state = self._state(cell, phase)
        self._placed = observation, cell, state
        return cell, state

    def _state(self, cell: Tensor, phase: Tensor) -> Tensor:
        if self.num_phases == 1:
            return self.first_state + cell
        return self.first_state + phase * self.num_cells + cell
