"""`fastad envs`, `sources` and `methods`: every name, every option, its default and what it is."""

import shlex
from dataclasses import replace

import pytest

from fastad.cli import main
from fastad.cli.flags import parse
from fastad.configs import TrainConfig
from fastad.envs.registry import ENVS, env_options
from fastad.methods.registry import METHODS
from fastad.sources.registry import SOURCES, source_options


def said(capsys, *words):
    """What a command prints, on one line."""
    assert main([*words]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_every_environment_is_listed_with_its_options_and_defaults(capsys):
    text = said(capsys, "envs")
    for name in ENVS:
        assert f"{name}: " in text
    assert "options size=17 episode_length=20 terminate_on_goal=false" in text
    assert "options num_arms=10 reward_std=0.3" in text


@pytest.mark.parametrize("name", ENVS)
def test_an_environment_is_described_with_every_option_explained(name, capsys):
    assert main(["envs", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    for option in env_options(name):
        (line,) = [line for line in lines if line.startswith(f"  {option}=")]
        assert len(line.split()) > 2, f"{name}: {option} has no docstring"


def test_an_environment_says_its_tasks_and_who_learns_it(capsys):
    text = said(capsys, "envs", "dark-room")
    for fact in ("tasks 80", "exactly 20 steps", "Discrete(5)", "fastad/DarkRoom-v0"):
        assert fact in text
    assert "sources q-learning, actor-critic, ucbvi, frontier, a2c, a3c, dqn, expert" in text
    assert "tasks any number, drawn" in said(capsys, "envs", "bernoulli-bandit")


def test_every_source_is_listed_with_what_it_learns_and_knows(capsys):
    text = said(capsys, "sources")
    for name in SOURCES:
        assert f"{name}: " in text
    assert "options bonus=0.5 learns dark-room, dark-room-hard" in text
    assert "knows the movement rules, not the reward; by environment: that an episode" in text
    assert "knows how many pulls there will be" in text
    assert "knows the task, as the environment's expert; how many steps there will be" in text
    assert text.count("knows nothing beyond what it experiences") == 1  # random


@pytest.mark.parametrize("name", [*SOURCES, "sb3:PPO", "sb3:DQN", "sb3:SAC"])
def test_a_source_is_described_with_every_option_explained(name, capsys):
    assert main(["sources", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    for option in source_options(name):
        (line,) = [line for line in lines if line.startswith(f"  {option}=")]
        assert len(line.split()) > 2, f"{name}: {option} is in no Args"


def test_a_source_says_what_it_is_told_of_each_environment(capsys):
    text = said(capsys, "sources", "ucb1")
    assert "bernoulli-bandit that rewards lie in [0, 1]" in text
    assert "gaussian-bandit the standard deviation of the rewards" in text
    assert "dark-room" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["envs", "darkroom"], "unknown env 'darkroom'; did you mean 'dark-room'?"),
        (["sources", "ucb"], "unknown source 'ucb'; did you mean 'ucb1'?"),
    ],
)
def test_a_name_that_there_is_not_is_told_the_nearest(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_every_method_is_listed_with_flags_that_give_its_defaults_and_what_it_is_told(capsys):
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    listed = shown.replace("\n          ", " ").partition("\none of them")[0].splitlines()
    flags = [shlex.split(line)[1:] for line in listed if line.startswith("  flags")]
    for name, words in zip(METHODS, flags, strict=True):
        assert name in listed
        assert words[:2] == ["--method", name]
        usual = TrainConfig.begin_with({"method": name})
        assert parse("train", words) == replace(usual, method=name)
    assert "called  decision transformer, told the optimum" in shown
    assert "called  DPT, expert labels: told the task" in shown
    assert "collect them with --labels expert" in shown


def test_an_environment_from_outside_is_described_with_a_first_command(capsys):
    text = said(capsys, "envs", "gym:CartPole-v1")
    for fact in ("at most 500 steps", "actions Discrete(2)", "sources a2c, a3c, dqn",
                 "arguments sutton_barto_reward=False", "attributes gravity=9.8 masscart=1.0",
                 "tasks=null How tasks differ.", "deterministic=true Whether"):  # fmt: skip
        assert fact in text
    example = text.partition("for example: fastad ")[2]
    command, *words = shlex.split(example)
    assert command == "collect"
    config = parse(command, words)
    assert config.env == "gym:CartPole-v1"
    assert config.env_options == ("tasks={gravity: [4.9, 14.7], masscart: [0.5, 1.5]}",)


def test_one_without_a_limit_is_told_to_say_one(capsys):
    text = said(capsys, "envs", "gym:Blackjack-v1")
    assert "episodes of any length" in text
    assert text.endswith("--env gym:Blackjack-v1 --env-kwargs episode_length=200 tasks=seeds")
