import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom
from fastad.envs.registry import ENVS, env_class, env_options, make_env


def make(name, tasks, **kwargs):
    return make_env(name, torch.tensor(tasks), generator=torch.Generator(), **kwargs)


def test_every_family_has_its_name():
    assert set(ENVS) == {
        "bernoulli-bandit",
        "gaussian-bandit",
        "adversarial-bandit",
        "dark-room",
        "dark-room-hard",
        "dark-room-permuted",
        "dark-key-to-door",
    }
    assert all(env.name == name for name, env in ENVS.items())


def test_environments_are_made_by_name_with_their_options():
    env = make("dark-room", [[1, 2]], size=5, episode_length=7)

    assert isinstance(env, DarkRoom)
    assert (env.size, env.episode_length) == (5, 7)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown env 'darkroom'; did you mean 'dark-room'"):
        env_class("darkroom")


def test_unknown_options_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown option of dark-room 'sise'; did you mean 'size'"):
        make("dark-room", [[1, 2]], sise=5)


def test_values_are_checked_where_the_environment_is_made():
    with pytest.raises(UserError, match="size=8 is not possible"):
        make("dark-room", [[1, 2]], size=8)


def test_options_are_listed_with_their_defaults():
    assert env_options("dark-room-hard") == {
        "size": 17,
        "episode_length": 20,
        "terminate_on_goal": False,
    }


def test_a_generator_elsewhere_than_the_tasks_is_refused():
    tasks = torch.zeros(1, 2, dtype=torch.int64)

    class Elsewhere:
        device = torch.device("cuda")

    with pytest.raises(UserError, match="generator is on cuda, tasks are on cpu"):
        make_env("dark-room", tasks, generator=Elsewhere())
