"""Any Gymnasium environment as a family of tasks, on some that nobody here wrote."""

import json
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.envs.gym_in import Gym
from fastad.envs.registry import env_options, make_family, stored_options
from fastad.envs.split import split_tasks
from fastad.spaces import unpack


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(family, num=4, seed=0):
    return split_tasks(family, num_train=num, num_test=2, num_validation=1, seed=seed).all


def run(env, num_steps, seed=0):
    """Observations, rewards and flags of random actions, and where steps really ended."""
    generator, seen = seeded(seed), [env.reset()]
    for _ in range(num_steps):
        action = env.actions.random(env.num_envs, generator)
        seen.append((*env.step(action), env.final_observation))
    return seen


PHYSICS = {
    "gym:CartPole-v1": {"tasks": {"length": [0.3, 1.5], "masspole": [0.05, 0.5]}},
    "gym:Acrobot-v1": {"tasks": {"LINK_LENGTH_1": [0.5, 1.5], "LINK_MASS_2": [0.5, 1.5]}},
    "gym:Pendulum-v1": {"tasks": {"m": [0.5, 1.5], "l": [0.5, 1.5]}},
    "gym:MountainCar-v0": {"tasks": {"gravity": [0.002, 0.003]}},
    "outside:lake": {"tasks": {"map_seed": [0, 5000]}, "episode_length": 30},
    "gym:Taxi-v4": {"tasks": "seeds"},
    "gym:Blackjack-v1": {"tasks": "seeds", "episode_length": 20},
    "gym:minigrid:MiniGrid-Empty-Random-5x5-v0": {
        "tasks": "seeds", "observe": "image,direction", "episode_length": 40,
    },
    "outside:Mixed": {"tasks": [{"goal": g, "reward": r} for g in (0, 1) for r in (1, 2, 3, 4)],
                      "observe": "cell,picture,pose", "episode_length": 9},
}  # fmt: skip


@pytest.mark.parametrize("name", PHYSICS)
def test_environments_of_others_pass_their_check_and_keep_the_contract(name):
    family = make_family(name, **PHYSICS[name])
    family.check()
    tasks = rows_of(family)
    env = family.make(tasks, seeded())
    first, *steps = run(env, 60)
    space = env.observation_space
    shape = space.shape or ()
    kind = torch.float32 if isinstance(space, spaces.Box) else torch.int64
    if isinstance(space, spaces.Dict | spaces.Tuple):
        shape, kind = (sum(value.nbytes for value in _leaves(space)),), torch.uint8
    assert (first.shape, first.dtype) == ((7, *shape), kind)
    for observation, reward, terminated, truncated, final in steps:
        assert (observation.shape, observation.dtype) == ((7, *shape), kind)
        assert (final.shape, final.dtype) == (first.shape, kind)
        assert (reward.shape, reward.dtype) == ((7,), torch.float32)
        assert terminated.dtype == truncated.dtype == torch.bool
        going_on = ~(terminated | truncated)
        assert torch.equal(observation[going_on], final[going_on])


def _leaves(space):
    from fastad.spaces import leaves

    return [np.empty(leaf.shape, leaf.dtype) for leaf in leaves(space)]


def test_what_a_constructor_derives_from_a_varied_number_is_right():
    family = make_family("gym:CartPole-v1", tasks=[{"length": 2.0, "masspole": 0.25}])
    pole = family.build(torch.tensor([0])).unwrapped
    assert (pole.length, pole.masspole, pole.masscart) == (2.0, 0.25, 1.0)
    assert (pole.total_mass, pole.polemass_length) == (1.25, 0.5)
    assert type(pole) is type(gymnasium.make("CartPole-v1").unwrapped)
    pole.masspole = 7.0  # what happens later is not held back
    assert pole.masspole == 7.0


def test_constants_of_a_class_and_arguments_vary_alike():
    acrobot = make_family("gym:Acrobot-v1", tasks=[{"LINK_LENGTH_1": 0.5}])
    assert acrobot.build(torch.tensor([0])).unwrapped.LINK_LENGTH_1 == 0.5
    assert gymnasium.make("Acrobot-v1").unwrapped.LINK_LENGTH_1 == 1.0
    pendulum = make_family("gym:Pendulum-v1", m=2.0, tasks=[{"g": 5.0}])
    made = pendulum.build(torch.tensor([0])).unwrapped
    assert (made.g, made.m) == (5.0, 2.0)


def test_an_episode_is_as_gymnasium_has_it():
    family = make_family("gym:CartPole-v1", tasks=[{"masspole": 0.3}], episode_length=12)
    env = family.make(torch.tensor([[0]]), seeded(5))
    theirs = gymnasium.make("CartPole-v1", max_episode_steps=12)
    pole = theirs.unwrapped
    pole.masspole, pole.total_mass, pole.polemass_length = 0.3, 1.3, 0.15
    seed = int(torch.randint(2**31, (1,), generator=seeded(5)))
    expected, _ = theirs.reset(seed=seed)
    observation = env.reset()
    for step in range(80):
        np.testing.assert_array_equal(observation[0], expected)
        action = (step // 3) % 2
        observation, reward, terminated, truncated = env.step(torch.tensor([action]))
        expected, *rest, _ = theirs.step(action)
        assert [reward.item(), terminated.item(), truncated.item()] == rest
        np.testing.assert_array_equal(env.final_observation[0], expected)
        if rest[1] or rest[2]:
            expected, _ = theirs.reset()


def test_episodes_end_apart_from_each_other_and_are_cut_apart_from_ending():
    # From 1, 2 or 3 cells away, always left; who wants to get to cell 4 never does.
    family = Gym("outside:Corridor", tasks=[{"goal": 0}, {"goal": 4}], episode_length=5)
    env = family.make(torch.tensor([[0], [0], [1]]), seeded())
    start = env.reset()
    ages = [0, 0, 0]
    for _ in range(12):
        observation, reward, terminated, truncated = env.step(torch.zeros(3, dtype=torch.int64))
        for index in range(3):
            ages[index] += 1
            at_goal = index < 2 and ages[index] == start[index]
            assert terminated[index] == at_goal
            assert reward[index] == float(at_goal)
            assert truncated[index] == (ages[index] == 5)
            expected = max(0, int(start[index]) - ages[index])
            assert env.final_observation[index] == expected
            if terminated[index] or truncated[index]:
                ages[index], start[index] = 0, observation[index]
            else:
                assert observation[index] == expected


def test_everything_follows_from_the_generator():
    family = make_family("outside:Corridor", tasks=[{"goal": 0}] * 6, episode_length=7)
    tasks = torch.arange(6)[:, None]
    first, again, other = (run(family.make(tasks, seeded(s)), 40) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    for one, two in zip(first[1:], again[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0], other[0])


def test_with_seeds_every_episode_of_a_task_begins_alike():
    family = make_family("gym:Taxi-v4", tasks="seeds", episode_length=3)
    env = family.make(torch.tensor([[3], [4]]), seeded())
    first = env.reset()
    assert first.tolist() == [gymnasium.make("Taxi-v4").reset(seed=s)[0] for s in (3, 4)]
    for step in range(1, 10):
        observation, *_ = env.step(torch.tensor([1, 2]))
        assert torch.equal(observation, first) == (step % 3 == 0)


def test_keys_are_chosen_and_packed():
    arguments = {"tasks": [{}], "episode_length": 9}
    family = make_family("outside:Mixed", observe="cell,pose", **arguments)
    env = family.make(torch.tensor([[0]]), seeded())
    seen = unpack(env.observation_space, env.reset())
    assert list(seen) == ["cell", "pose.0", "pose.1"]
    cell = int(seen["cell"])
    assert seen["pose.0"].tolist() == [[cell / 4, -1.0]]
    assert seen["pose.1"].tolist() == [[int(cell > 1), 0]]


def test_one_key_alone_is_no_dict():
    arguments = {"tasks": [{}], "episode_length": 9}
    family = make_family("outside:Mixed", observe="picture", **arguments)
    assert family.spec().observation_space == spaces.Box(0, 255, (2, 3), np.uint8)
    picture = family.make(torch.tensor([[0]]), seeded()).reset()
    assert (picture.dtype, picture.shape) == (torch.uint8, (1, 2, 3))
    cell = make_family("outside:Mixed", observe="cell", **arguments)
    assert cell.spec().observation_space == spaces.Discrete(5)


def test_actions_of_a_box_are_vectors():
    family = make_family("gym:Pendulum-v1", tasks=[{"g": 9.0}])
    env = family.make(torch.tensor([[0], [0]]), seeded())
    env.reset()
    _, reward, *_ = env.step(torch.tensor([[2.0], [-2.0]]))
    assert reward.shape == (2,)
    assert (reward < 0).all()


def test_ranges_give_other_tasks_to_every_split():
    ranges = {"length": [0.5, 1.5], "masspole": [1, 3]}
    family = make_family("gym:CartPole-v1", tasks=ranges)
    split = split_tasks(family, num_train=200, num_test=50, num_validation=20, seed=3)
    assert split.all.shape == (270, 2)
    assert len(split.all.unique(dim=0)) == 270
    length, mass = split.train.unbind(1)
    assert 0.5 <= length.min() < 0.55
    assert 1.45 < length.max() <= 1.5
    assert mass.unique().tolist() == [1.0, 2.0, 3.0]
    assert [type(v) for v in family.distribution.arguments(split.test[0]).values()] == [float, int]


def test_few_whole_numbers_are_listed_and_many_belong_to_one_split_each():
    few = make_family("outside:lake", tasks={"map_seed": [0, 9], "size": [4, 5]}, episode_length=9)
    assert few.tasks().tolist() == [[seed, size] for seed in range(10) for size in (4, 5)]
    many = make_family("outside:lake", tasks={"map_seed": [0, 99_999]}, episode_length=9)
    assert many.tasks() is None
    split = split_tasks(many, num_train=3000, num_test=3000, num_validation=3000, seed=0)
    assert split.all.dtype == torch.int64
    parts = [set(part[:, 0].tolist()) for part in (split.train, split.validation, split.test)]
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])
    # Drawn from a third of 100,000 each: about 3000 - 3000 ** 2 / (2 * 33,333) = 2865 are distinct.
    assert all(2800 < len(part) < 2930 for part in parts)


def test_seeds_are_other_ones_in_every_split():
    family = make_family("gym:Taxi-v4", tasks="seeds")
    split = split_tasks(family, num_train=50, num_test=20, num_validation=10, seed=0)
    for number, part in enumerate((split.train, split.validation, split.test)):
        assert (part % 3 == number).all()


def test_the_places_of_a_goal_are_tasks_of_minigrid():
    """Its constructor wants a tuple, and JSON has lists alone."""
    name, goals = "gym:minigrid:MiniGrid-FourRooms-v0", [[3, 3], [15, 2]]
    family = make_family(
        name, tasks=[{"goal_pos": goal} for goal in goals], observe="image", episode_length=50
    )
    family.check()
    env = family.make(torch.tensor([[0], [1]]), seeded())
    env.reset()
    for inner, (x, y) in zip(env._envs, goals, strict=True):
        assert inner.unwrapped.grid.get(x, y).type == "goal"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tasks.yaml", "- {masspole: 0.2}\n- {masspole: 0.3}\n"),
        ("tasks.json", '[{"masspole": 0.2}, {"masspole": 0.3}]'),
    ],
)
def test_a_file_of_tasks_is_read_in_and_needed_no_more(file, content, tmp_path):
    path = tmp_path / file
    path.write_text(content)
    options = stored_options("gym:CartPole-v1", {"tasks": str(path)})
    assert options == {"tasks": [{"masspole": 0.2}, {"masspole": 0.3}]}
    direct = make_family("gym:CartPole-v1", tasks=str(path))
    path.unlink()
    stored = make_family("gym:CartPole-v1", **json.loads(json.dumps(options)))
    assert stored == direct
    assert stored.build(torch.tensor([1])).unwrapped.total_mass == 1.3


def test_a_library_user_gives_a_class_or_a_function():
    from outside import Corridor

    family = Gym(Corridor, tasks=[{"goal": 0}, {"goal": 1}], episode_length=9)
    family.check()
    assert family.name == "outside:Corridor"
    assert family == make_family("outside:Corridor", **family.options)
    made = Gym(lambda goal: Corridor(goal), tasks=[{"goal": 1}], episode_length=9)
    assert (
        Gym(partial(Corridor, goal=1), tasks="seeds", episode_length=9).name == "functools:partial"
    )
    assert made.build(torch.tensor([0])).goal == 1


def test_options_have_their_defaults():
    assert env_options("gym:CartPole-v1") == {
        "tasks": None,
        "episode_length": None,
        "observe": "",
        "deterministic": True,
    }
    assert make_family("gym:CartPole-v1", tasks="seeds").spec().episode_length == 500
    assert make_family("gym:Taxi-v4").spec().episode_length == 200


@pytest.mark.parametrize(("dtype", "stored"), [(np.uint16, np.int32), (np.uint32, np.int64)])
def test_wide_unsigned_numbers_are_stored_in_what_pytorch_can_index(dtype, stored):
    most = np.iinfo(dtype).max

    class Counter(gymnasium.Env):
        observation_space = spaces.Box(0, most, (2,), dtype)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.array([most, 1], dtype), {}

        def step(self, action):
            return np.array([most, 2], dtype), 0.0, True, False, {}

    family = Gym(Counter, tasks="seeds", episode_length=4)
    assert family.spec().observation_space == spaces.Box(0, int(most), (2,), stored)
    env = family.make(torch.tensor([[3], [4]]), torch.Generator())
    env.reset()
    observation, *_ = env.step(torch.tensor([0, 1]))
    assert observation.tolist() == [[int(most), 1]] * 2  # the next episode's first
    assert env.final_observation.tolist() == [[int(most), 2]] * 2
