"""Probe environments, whose values and best actions follow from a line of arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.acting.interact import Transition, interact
from fastad.envs.base import BatchedEnv
from fastad.envs.family import EnvSpec, TaskFamily


@dataclass(frozen=True)
class Probe(TaskFamily):
    """Two actions, two observations. A task is the action that pays, if actions matter."""

    name = "probe"
    pays: str = "always"
    """always, at the "end", for the task's "action", for the "observation" 1, else -1, or where the
    action is what was "seen"."""
    episode_length: int = 1
    truncates: bool = False
    """End episodes by truncation instead of termination."""
    box: bool = False
    """Show the observation as a vector: -1 or 1."""

    def spec(self) -> EnvSpec:
        seen = spaces.Box(-1.0, 1.0, (1,)) if self.box else spaces.Discrete(2)
        return EnvSpec(seen, spaces.Discrete(2), self.episode_length)

    def tasks(self) -> Tensor:
        return torch.tensor([[0], [1]])

    def make(self, tasks: Tensor, generator: torch.Generator) -> "ProbeEnv":
        return ProbeEnv(self, tasks, generator)


@dataclass(frozen=True)
class PictureProbe(Probe):
    """Stores a bit and shows a red or a green picture; or stores what it shows."""

    name = "picture-probe"
    pays: str = "seen"
    stores_pictures: bool = False

    def spec(self) -> EnvSpec:
        pictures = spaces.Box(0, 255, (8, 9, 3), np.uint8)
        if self.stores_pictures:
            return EnvSpec(pictures, spaces.Discrete(2), self.episode_length)
        bits = spaces.Discrete(2)
        return EnvSpec(bits, spaces.Discrete(2), self.episode_length, shown_space=pictures)

    def picture(self, bit: Tensor) -> Tensor:
        colours = torch.tensor([[255, 0, 0], [0, 255, 0]], dtype=torch.uint8)
        return colours[bit][..., None, None, :].expand(*bit.shape, 8, 9, 3)

    def show(self, observation: Tensor) -> Tensor:
        return observation if self.stores_pictures else self.picture(observation)

    def auxiliary(self) -> Mapping[str, int] | None:
        return None if self.stores_pictures else {"bit": 2}

    def auxiliary_targets(self, observation: Tensor) -> dict[str, Tensor]:
        return {"bit": torch.nn.functional.one_hot(observation, 2).float()}


class ProbeEnv(BatchedEnv):
    """Observes a random bit, or the step where only the end pays."""

    family: Probe

    def reset(self) -> Tensor:
        self._time = torch.zeros_like(self.tasks[:, 0])
        self._bit = torch.randint(2, self._time.shape, generator=self.generator)
        return self._observe()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._time = self._time + 1
        ended = self._time == self.episode_length
        reward = {
            "always": torch.ones_like(action),
            "end": ended,
            "action": action == self.tasks[:, 0],
            "observation": 2 * self._bit - 1,
            "seen": action == self._bit,
        }[self.family.pays].float()
        self.final_observation = self._observe()
        if bool(ended.all()):
            self.reset()
        none = torch.zeros_like(ended)
        flags = (none, ended) if self.family.truncates else (ended, none)
        return self._observe(), reward, *flags

    def _observe(self) -> Tensor:
        bit = self._time.clamp(max=1) if self.family.pays == "end" else self._bit
        if isinstance(self.family, PictureProbe) and self.family.stores_pictures:
            return self.family.picture(bit)
        return (2 * bit - 1).float()[:, None] if self.family.box else bit.clone()


def probe(source: Any, family: Probe, *, num_episodes: int, seed: int = 0, **options: Any) -> Any:
    """A source that has learned both tasks of a probe, 8 learners each, and what happened."""
    worlds, learning = (torch.Generator().manual_seed(2 * seed + i) for i in range(2))
    env = family.make(family.tasks().repeat(8, 1), worlds)
    learner = source(env, num_episodes=num_episodes, generator=learning, **options)
    num_steps = num_episodes * family.episode_length
    blocks = interact(env, learner, num_steps=num_steps, block_steps=num_steps, generator=worlds)
    history: Transition = next(iter(blocks))
    return learner, history


def assert_learned(values: Tensor, expected: Tensor, *, within: float = 0.05) -> None:
    """Hold what 16 learners know to what is true: in the mean, and by and large each of them.

    A network under constant learning rates never stands still: where a single one happens to be
    at the end depends on the last bit of every product, and so on the processor.
    """
    values, expected = torch.broadcast_tensors(values, expected)
    torch.testing.assert_close(values.mean(dim=0), expected.mean(dim=0), atol=within, rtol=0)
    assert (values - expected).abs().median() < within
    torch.testing.assert_close(values, expected, atol=5 * within, rtol=0)
