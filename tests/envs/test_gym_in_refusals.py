"""What is wrong with an environment from outside is refused before hours are spent."""

from pathlib import Path

import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.registry import make_family


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


SEEDS = {"tasks": "seeds"}
BROKEN = {"tasks": [{"goal": 0}, {"goal": 1}], "episode_length": 8}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gym:CartPole", SEEDS, "unknown environment of Gymnasium 'CartPole'; did you mean 'CartP"),
        ("gym:Torch-Maze-v0", SEEDS, "name that too: --env gym:torch:Torch-Maze-v0"),
        ("gym:Somebodys-v0", SEEDS, "name that too: --env gym:PACKAGE:Somebodys-v0"),
        ("gym:nowhere:CartPole-v1", SEEDS, "there is no module 'nowhere'"),
        ("nowhere.at_all:Env", SEEDS, "there is no module 'nowhere', neither installed nor in"),
        ("outside:Coridor", SEEDS, "unknown environment in outside 'Coridor'; did you mean 'Corri"),
        ("outside:NUMBER", SEEDS, "is a int, not a class or function"),
        ("builtins:max", SEEDS, "builtins:max does not tell its arguments: no signature found"),
        ("gym:CartPole-v1", {"tasks": {"lenght": [1, 2]}}, "'lenght'; did you mean 'length'"),
        ("gym:CartPole-v1", SEEDS | {"gravty": 3}, "gym:CartPole-v1 'gravty'; did you mean 'grav"),
        ("outside:lake", {"tasks": {"seed": [1, 2]}, "episode_length": 9}, "lake 'seed'"),
        ("outside:lake", {"tasks": [{"map_seed": "x"}], "episode_length": 9}, "made with .*'x'"),
        ("outside:lake", {"tasks": "seeds", "episode_length": 9}, "missing 1 required"),
        ("gym:CartPole-v1", {}, r"tasks is needed.* 'tasks={gravity: \[4.9, 14.7\], masscart"),
        ("gym:FrozenLake-v1", {"tasks": [{"map_name": "4x4"}, {"map_name": "8x8"}]},
         r"observation_space is Discrete\(64\) in task \(map_name='8x8'\) and Discrete\(16\)"),
        ("gym:Blackjack-v1", SEEDS, "episode_length is needed.*episode_length=200"),
        ("outside:Mixed", SEEDS | {"episode_length": 9}, "key 'mission': space Text.*observe="),
        ("outside:Mixed", SEEDS | {"observe": "cel", "episode_length": 9}, "did you mean 'cell'"),
        ("gym:CartPole-v1", SEEDS | {"observe": "x"}, "observe=x chooses keys of a Dict"),
        ("outside:Picky", {"tasks": {"goal": [0, 10**9]}, "episode_length": 9}, "goal=1000000000"),
        ("outside:the_same", SEEDS | {"episode_length": 9}, "returns the same environment again"),
        ("gym:CartPole-v1", {"tasks": "speed"}, "tasks=speed is not possible"),
        ("gym:CartPole-v1", {"tasks": "missing.yaml"}, "missing.yaml cannot be read"),
        ("gym:CartPole-v1", {"tasks": []}, r"tasks=\[\] is not possible"),
        ("gym:CartPole-v1", {"tasks": [3]}, r"tasks\[0\]=3 must be arguments by name"),
        ("gym:CartPole-v1", {"tasks": {"length": [2, 1]}}, r"length=\[2, 1\] must be \[low, high"),
        ("gym:CartPole-v1", {"tasks": {"length": 2}}, r"length=2 must be \[low, high"),
        ("gym:CartPole-v1", {"tasks": {"length": [1, 2]}, "length": 3}, "length is an option"),
        ("gym:CartPole-v1", {"tasks": {"observe": [1, 2]}}, "tasks cannot differ in observe"),
        ("gym:CartPole-v1", SEEDS | {"episode_length": 0}, "episode_length=0 .* at least 1"),
        ("gym:CartPole-v1", SEEDS | {"deterministic": "no"}, "deterministic='no'"),
        ("outside:Broken", BROKEN | {"what": "spaces"}, r"Discrete\(6\) in task \(goal=1\)"),
        ("outside:Broken", BROKEN | {"what": "old"}, "step does not return .observation, rew"),
        ("outside:Broken", BROKEN | {"what": "reset"}, "step 0: reset returns int, not"),
        ("outside:Broken", BROKEN | {"what": "outside"},
         r"task \(goal=0\), step 5: observation is 5, and its space is Discrete\(5\)"),
        ("outside:Broken", BROKEN | {"what": "dtype"}, "step 5: observation is of dtype float64"),
        ("outside:Broken", BROKEN | {"what": "shape"}, r"step 5: observation has shape \(1,\)"),
        ("outside:Broken", BROKEN | {"what": "nan"}, "step 5: the reward is nan"),
        ("outside:Broken", BROKEN | {"what": "infinite"}, "step 5: the reward is inf"),
        ("outside:Broken", BROKEN | {"what": "none"}, "step 5: the reward is None"),
        ("outside:Broken", BROKEN | {"what": "random"},
         "not deterministic: .*another observation at step .*deterministic=false"),
    ],
)  # fmt: skip
def test_is_refused(name, options, words, monkeypatch):
    with pytest.raises(UserError, match=words):
        make_family(name, **options).check()


def test_what_is_random_beside_its_seed_can_be_waived():
    make_family("outside:Broken", **BROKEN, what="random", deterministic=False).check()


def test_a_task_that_is_not_listed_is_refused():
    family = make_family("outside:Broken", **BROKEN, what="")
    with pytest.raises(UserError, match="task 2 is none of the 2 that are listed"):
        family.make(torch.tensor([[2]]), torch.Generator()).reset()


def test_a_module_that_fails_is_named_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "half_done.py").write_text("import torch\n1 / 0\n")
    (tmp_path / "needy.py").write_text("import a_thing_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'half_done' cannot be imported: ZeroDivisionError"):
        make_family("half_done:Env")
    with pytest.raises(UserError, match="importing 'needy' needs the module 'a_thing_nobody_has'"):
        make_family("needy:Env")


def test_a_task_that_is_listed_twice_is_refused():
    twice = [{"goal": 0, "reward": 2.0}, {"goal": 1}, {"reward": 2.0, "goal": 0}]
    with pytest.raises(UserError, match=r"tasks\[2\]=.* is tasks\[0\] again; list every task once"):
        make_family("outside:Corridor", tasks=twice, episode_length=8).check()
