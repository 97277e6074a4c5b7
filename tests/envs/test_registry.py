import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom, DarkRoomHard
from fastad.envs.registry import ENVS, env_options, family_class, gymnasium_id, make_family


def test_every_family_has_its_name():
    assert [family_class(name).name for name in ENVS] == list(ENVS)


def test_gymnasium_calls_families_by_their_class():
    assert [gymnasium_id(name) for name in ENVS] == [
        "fastad/BernoulliBandit-v0",
        "fastad/GaussianBandit-v0",
        "fastad/AdversarialBandit-v0",
        "fastad/DarkRoom-v0",
        "fastad/DarkRoomHard-v0",
        "fastad/DarkRoomPermuted-v0",
        "fastad/DarkKeyToDoor-v0",
        "fastad/PointMass-v0",
        "fastad/Watermaze-v0",
    ]


def test_families_are_made_by_name_with_some_options_and_the_defaults_of_others():
    assert make_family("dark-room", size=5) == DarkRoom(size=5, episode_length=20)
    assert make_family("dark-room-hard", terminate_on_goal=True) == DarkRoomHard(17, 20, True)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown env 'darkroom'; did you mean 'dark-room'"):
        make_family("darkroom")


def test_unknown_options_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown option of dark-room 'sise'; did you mean 'size'"):
        make_family("dark-room", sise=5)
    with pytest.raises(UserError, match="unknown option of dark-room 'name'"):
        make_family("dark-room", **{"name": "x"})


def test_options_are_of_the_kind_of_their_defaults():
    assert make_family("gaussian-bandit", reward_std=1).reward_std == 1
    for name, option, value, kind in (
        ("dark-room", "size", 5.0, "a whole number"),
        ("dark-room", "size", True, "a whole number"),
        ("gaussian-bandit", "reward_std", "low", "a number"),
        ("dark-room-hard", "terminate_on_goal", 1, "true or false"),
        ("dark-key-to-door", "start", 3, "a word"),
    ):
        with pytest.raises(UserError, match=f"{option}={value!r} of {name} must be {kind}"):
            make_family(name, **{option: value})


def test_values_are_checked_when_a_family_is_made():
    with pytest.raises(UserError, match="size=8 is not possible"):
        make_family("dark-room", size=8)


def test_options_are_listed_with_their_defaults():
    assert env_options("dark-room-hard") == {
        "size": 17,
        "episode_length": 20,
        "terminate_on_goal": False,
    }
    assert env_options("dark-key-to-door") == {
        "size": 9,
        "episode_length": 50,
        "start": "random",
        "terminate_on_door": False,
    }


def test_a_generator_elsewhere_than_the_tasks_is_refused():
    tasks = torch.zeros(1, 2, dtype=torch.int64)

    class Elsewhere:
        device = torch.device("cuda")

    with pytest.raises(UserError, match="generator is on cuda, tasks are on cpu"):
        DarkRoom().make(tasks, Elsewhere())
