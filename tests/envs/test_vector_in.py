"""Vector environments as batched ones: in every mode the same episodes, step for step."""

import functools
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from fastad.base.errors import UserError
from fastad.envs.gym_in import Gym
from fastad.envs.vector_in import VectorIn

MODES = list(AutoresetMode)
LENGTH = 7
GOALS = (0, 4, 0)


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def corridors(kind=SyncVectorEnv, **options):
    from outside import limited_corridor

    return kind([functools.partial(limited_corridor, goal, LENGTH) for goal in GOALS], **options)


def run(env, num_steps=40):
    generator, seen = seeded(9), [(env.reset(),)]
    for _ in range(num_steps):
        action = env.actions.random(env.num_envs, generator)
        seen.append((*env.step(action), env.final_observation))
    return seen


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert len(one) == len(two)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))


@pytest.fixture
def expected():
    goals = [{"goal": 0}, {"goal": 4}]
    family = Gym("outside:Corridor", tasks=goals, episode_length=LENGTH)
    seen = run(family.make(torch.tensor([[0], [1], [0]]), seeded()))
    # Episodes of the three end apart: the test would be worth nothing otherwise.
    assert any(0 < int((over | cut).sum()) < 3 for _, _, over, cut, _ in seen[1:])
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_a_sync_vector_env_is_as_our_batch_of_its_environments(mode, expected):
    env = VectorIn(corridors(autoreset_mode=mode), generator=seeded(), episode_length=LENGTH)
    assert_same(run(env), expected)


@pytest.mark.parametrize("mode", MODES)
def test_so_is_an_async_one(mode, expected):
    theirs = corridors(AsyncVectorEnv, autoreset_mode=mode, context="spawn")
    try:
        assert_same(run(VectorIn(theirs, generator=seeded(), episode_length=LENGTH)), expected)
    finally:
        theirs.close()


def test_a_wrapper_changes_nothing_of_that(expected):
    theirs = gymnasium.wrappers.vector.RecordEpisodeStatistics(corridors())
    assert_same(run(VectorIn(theirs, generator=seeded(), episode_length=LENGTH)), expected)


@pytest.mark.parametrize("mode", MODES)
def test_packed_observations_and_their_ends_come_in(mode):
    from outside import Mixed

    def make(goal):
        inner = gymnasium.wrappers.FilterObservation(Mixed(goal), ["cell", "picture", "pose"])
        return gymnasium.wrappers.TimeLimit(inner, LENGTH)

    theirs = SyncVectorEnv([functools.partial(make, g) for g in (0, 4)], autoreset_mode=mode)
    ours = Gym(make, tasks=[{"goal": 0}, {"goal": 4}], episode_length=LENGTH)
    seen = run(ours.make(torch.tensor([[0], [1]]), seeded()))
    assert_same(run(VectorIn(theirs, generator=seeded(), episode_length=LENGTH)), seen)


class Together(gymnasium.vector.VectorEnv):
    """Counts to 3 in two environments at once, and resets in the step after; or not at once."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    num_envs = 2
    single_observation_space = gymnasium.spaces.Discrete(4)
    single_action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, ends=(3, 3)):
        self.ends, self.count = np.array(ends), np.zeros(2, np.int64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count[:] = 0
        return self.count, {}

    def step(self, actions):
        over = self.count == self.ends
        self.count += 1
        self.count[over] = 0
        flags = self.count == self.ends
        return self.count, self.count * 0.5, flags, np.zeros(2, np.bool_), {}


def test_episodes_that_end_together_are_reset_by_a_step_of_their_own():
    env = VectorIn(Together(), generator=seeded(), episode_length=3)
    first, *steps = run(env, 6)
    assert first[0].tolist() == [0, 0]
    assert [step[0].tolist() for step in steps] == [[1, 1], [2, 2], [0, 0]] * 2
    assert [step[4].tolist() for step in steps] == [[1, 1], [2, 2], [3, 3]] * 2
    assert [step[1].tolist() for step in steps] == [[0.5, 0.5], [1.0, 1.0], [1.5, 1.5]] * 2
    assert [step[2].tolist() for step in steps] == [[False, False]] * 2 + [[True, True]] + (
        [[False, False]] * 2 + [[True, True]]
    )


def test_those_whose_episodes_end_apart_wait_in_the_step_that_resets_them():
    env = VectorIn(Together((2, 3)), generator=seeded(), episode_length=3)
    assert env.waiting is None
    env.reset()
    seen, waiting = [], []
    for _ in range(5):
        seen.append((*env.step(torch.zeros(2, dtype=torch.int64)), env.final_observation))
        waiting.append(None if env.waiting is None else env.waiting.tolist())
    assert [step[0].tolist() for step in seen] == [[1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]
    assert [step[1].tolist() for step in seen] == [[0.5, 0.5], [1, 1], [0, 1.5], [0.5, 0], [1, 0.5]]
    assert [step[2].tolist() for step in seen] == [
        [False, False],
        [True, False],
        [False, True],
        [False, False],
        [True, False],
    ]
    assert waiting == [None, [True, False], [False, True], None, [True, False]]
    env.reset()
    assert env.waiting is None


def test_whatever_such_a_step_says_of_who_waits_is_nothing():
    theirs = Together((2, 3))
    plain = theirs.step

    def step(actions):
        over = theirs.count == theirs.ends
        observation, reward, flags, cut, info = plain(actions)
        return observation, np.where(over, np.nan, reward), flags | over, cut | over, info

    theirs.step = step
    env = VectorIn(theirs, generator=seeded(), episode_length=3)
    assert_same(
        run(env, 20), run(VectorIn(Together((2, 3)), generator=seeded(), episode_length=3), 20)
    )


def test_a_vector_of_cart_poles_is_taken_as_sync():
    theirs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    env = VectorIn(theirs, generator=seeded())
    assert env.episode_length == 500
    family = Gym("gym:CartPole-v1", tasks=[{}])
    ours = family.make(torch.zeros(3, 1, dtype=torch.int64), seeded())
    assert_same(run(env, 100), run(ours, 100))


def test_what_a_vector_env_lacks_is_refused():
    with pytest.raises(UserError, match="episode_length is needed"):
        VectorIn(Together(), generator=seeded())
    silent = Together()
    silent.metadata = {}
    with pytest.raises(UserError, match=r"set it to what the environment does.*NEXT_STEP"):
        VectorIn(silent, generator=seeded(), episode_length=3)
    with pytest.raises(UserError, match="tasks are 3, and env=Together has 2"):
        VectorIn(Together(), generator=seeded(), episode_length=3, tasks=torch.zeros(3, 1))
    env = VectorIn(corridors(), generator=seeded(), episode_length=3)
    with pytest.raises(UserError, match="goes on after episode_length=3 steps"):
        run(env)


def test_an_async_one_that_would_reset_twice_is_refused():
    theirs = corridors(AsyncVectorEnv, shared_memory=False, context="spawn")
    try:
        with pytest.raises(UserError, match="make it with shared_memory=True"):
            VectorIn(theirs, generator=seeded(), episode_length=LENGTH)
    finally:
        theirs.close()
