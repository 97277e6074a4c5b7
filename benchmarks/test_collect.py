"""How many environment steps per second become learning histories?

Dark Room, 9 x 9, 20 steps per episode. fastad: thousands of tabular learners at once, through
`fastad collect`, every history written, flushed and committed to the disk. Stable-Baselines3: one
A2C learner with its defaults on 8 copies of its task, nothing written; public code for Algorithm
Distillation makes its histories so, one learner after the other. It steps fastad's registered
Gymnasium environment, or the same room in plain Python, which is the quickest for it.

Checked before timing: the histories open as a valid dataset, and the same actions give the same
observations, rewards and ends in the environment that the side steps and in the other kind.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from benchmarks.harness import Measure
from benchmarks.peers import sb3
from fastad.envs.dark_room import DarkRoom
from fastad.envs.registry import register_envs
from fastad.histories.jobs import collect
from fastad.histories.reader import HistoryDataset

GOAL = (3, 7)
NUM_ENVS = 8
CHECKED_STEPS = 100

SIDES = (
    "fastad, q-learning",
    "fastad, actor-critic",
    "Stable-Baselines3 A2C",
    "Stable-Baselines3 A2C, plain Python room",
)


class Case(NamedTuple):
    """How much each side does per timing."""

    num_histories: int
    num_episodes: int
    peer_steps: int

    def __str__(self) -> str:
        return f"dark-room, {self.num_histories:,} histories of {self.num_episodes} episodes"


CASES = (Case(1024, 50, 2000), Case(3840, 20, 2000))
QUICK = (Case(16, 2, 80),)


def test_collect(measure: Measure, case: Case, side: str, tmp_path: Path) -> None:
    prepare = _prepare_a2c if "A2C" in side else _prepare_fastad
    work, num_steps = prepare(measure, case, side, tmp_path)
    measure.rate(work, work=num_steps, unit="steps/s")


def _prepare_fastad(
    measure: Measure, case: Case, side: str, folder: Path
) -> tuple[Callable[[], Any], int]:
    """Check, then return what to time and how many environment steps it takes."""

    def work() -> None:
        collect(
            folder / "data",
            env="dark-room",
            source=side.split(", ")[1],
            num_histories=case.num_histories,
            num_episodes=case.num_episodes,
            num_train=8,
            num_test=8,
            overwrite=True,
        )

    work()
    dataset = HistoryDataset(folder / "data")
    different = 0
    for history in range(8):
        goal = dataset.tasks[dataset.task_ids[history]]
        steps = dataset.read(history, 0, min(CHECKED_STEPS, dataset.num_steps))
        ends = np.stack((steps["terminated"], steps["truncated"]), axis=1)
        expected = (steps["observation"], steps["reward"], ends)
        different += _differences(_scalar(tuple(goal.tolist())), steps["action"], expected)
    measure.gate(different, tolerance=0)
    return work, case.num_histories * case.num_episodes * dataset.info.episode_length


def _prepare_a2c(
    measure: Measure, case: Case, side: str, folder: Path
) -> tuple[Callable[[], Any], int]:
    """Check, then return what to time and how many environment steps it takes."""
    register_envs()
    if "plain" in side:
        learner = sb3.a2c(sb3.PlainDarkRoom, num_envs=NUM_ENVS, goal=GOAL)
    else:
        learner = sb3.a2c("fastad/DarkRoom-v0", num_envs=NUM_ENVS, goal=GOAL, render_mode=None)
    actions = np.random.default_rng(0).integers(5, size=CHECKED_STEPS)
    scalar = sb3.PlainDarkRoom(GOAL) if "plain" in side else _scalar(GOAL)
    measure.gate(_differences(scalar, actions, _batched(actions)), tolerance=0)
    return lambda: learner.learn(case.peer_steps), case.peer_steps


def _scalar(goal: tuple[int, ...]) -> Any:
    register_envs()
    return gymnasium.make("fastad/DarkRoom-v0", goal=goal)


def _batched(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations before acting, rewards and (terminated, truncated) of the batched room."""
    env = DarkRoom().make(torch.tensor([GOAL]), torch.Generator())
    observation, seen = env.reset(), []
    for action in torch.from_numpy(actions):
        following, reward, terminated, truncated = env.step(action[None])
        seen.append((observation[0].numpy(), reward.item(), (terminated.item(), truncated.item())))
        observation = following
    return tuple(np.array(values) for values in zip(*seen, strict=True))  # type: ignore[return-value]


def _differences(env: Any, actions: np.ndarray, expected: tuple[np.ndarray, ...]) -> int:
    """Steps at which a scalar environment, given these actions, does not show the same."""
    observation, _ = env.reset()
    count = 0
    for action, *values in zip(actions, *expected, strict=True):
        following, reward, terminated, truncated, _ = env.step(int(action))
        shown = (observation, reward, (terminated, truncated))
        count += not all(np.array_equal(*pair) for pair in zip(shown, values, strict=True))
        observation = env.reset()[0] if terminated or truncated else following
    return count
