"""Whatever a message names as FIELD=VALUE is a flag of that command, or an option of its env."""

import re
import shlex
from typing import Literal, get_args, get_origin

import pytest

from fastad.cli import main
from fastad.cli.flags import flags_of, kind_of, settings_of
from fastad.cli.table import COMMANDS

ROOM = "--env-options size=3 episode_length=4 --num-histories 8 --num-episodes 2"
MODEL = "--width 16 --num-layers 1 --context 12 --updates 2 --batch-size 2"
LINES = {
    "collect": f"collect new {ROOM} --num-test-tasks 2",
    "train": f"train data --out new {MODEL}",
    "rollout": "rollout run",
    "compare": "compare run --rollouts-per-task 1",
    "inspect": "inspect data",
    "report": "report run --out new",
    "convert": "convert data new.parquet",
    "demo": "demo",
    "bench": "bench --quick rollout",
}
OPTIONS = {"size", "episode_length", "learning_rate", "gamma"}  # of environments and sources


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with `data` and a `run`, in which commands are tried."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(shlex.split(LINES["collect"].replace("new", "data"))) == 0
        assert main(shlex.split(LINES["train"].replace("new", "run"))) == 0
    return folder


@pytest.fixture
def complain(world, monkeypatch, capsys):
    """Run a line that is refused; returns the fields that its complaint names."""
    monkeypatch.chdir(world)

    def run(line):
        capsys.readouterr()
        assert main(shlex.split(line)) == 2, line
        complaint = capsys.readouterr().err.strip()
        named = set(re.findall(r"(?<![\w/.])([a-z_]+)(?:=|: \S+ -> )", complaint))
        named |= set(re.findall(r"^fastad: unknown ([a-z_]+) '", complaint))
        flags = {flag[2:].replace("-", "_") for flag in flags_of(line.split()[0])}
        assert named <= flags | OPTIONS, complaint
        assert not (world / "new").exists()
        return named

    return run


def of_type(*kinds):
    """Commands and their fields of these types, or of these and None."""
    return [
        (name, field)
        for name in COMMANDS
        for field, hint in settings_of(kind_of(name))
        if {hint, get_origin(hint), *get_args(hint)} & set(kinds)
    ]


@pytest.mark.parametrize(("name", "field"), of_type(int, float))
def test_a_number_that_cannot_be_is_named_by_its_flag(name, field, complain):
    count = 2 if field in ("adam_betas", "cut") else 1
    assert field in complain(f"{LINES[name]} --{field.replace('_', '-')}" + " -1" * count)
    assert field in complain(f"{LINES[name]} --{field.replace('_', '-')}" + " many" * count)


@pytest.mark.parametrize(("name", "field"), of_type(Literal))
def test_a_word_that_is_no_choice_is_named_by_its_flag(name, field, complain):
    assert field in complain(f"{LINES[name]} --{field.replace('_', '-')} nonsense")


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("{collect} --num-train-tasks 70", {"num_train_tasks", "num_test_tasks"}),
        ("{collect} --num-test-tasks 99", {"num_test_tasks", "num_validation_tasks"}),
        ("{collect} --env gaussian-bandit --env-options num_arms=2 --source ucb1", set()),
        ("{collect} --env-options size=4", set()),
        ("{collect} --shards 9", {"shards", "num_histories"}),
        ("{collect} --source frontiers", {"source"}),
        ("collect data {room} --num-test-tasks 2", {"out"}),
        ("collect data {room} --num-test-tasks 3 --seed 4 --shards 2 --resume",
         {"num_test_tasks", "seed", "shards"}),
        ("collect data {room} --num-episodes 5 --num-test-tasks 2 --resume", {"num_episodes"}),
        ("collect data --env-options size=5 --num-test-tasks 2 --resume", {"num_histories"}),
        ("collect data/dataset.json", {"out"}),
        ("{train} --window 9", {"window", "every_kth_episode"}),
        ("{train} --every-kth-episode 9", {"every_kth_episode"}),
        ("{train} --num-heads 3", {"width", "num_heads"}),
        ("{train} --positions rope --width 12", {"positions"}),
        ("{train} --positions learned --context 4", {"positions", "context"}),
        ("{train} --device cudda", {"device"}),
        ("train data --out run {model} --width 32 --batch-size 3 --resume",
         {"width", "batch_size"}),
        ("train data --out run {model}", {"out"}),
        ("train data --out data {model}", {"out"}),
        ("train --env gaussian-bandit data --out new", {"env"}),
        ("rollout data", {"run"}),
        ("rollout nowhere", {"run"}),
        ("rollout run --tasks 99", {"tasks"}),
        ("rollout run --plot x.gif", {"plot"}),
        ("rollout run --json run", {"json"}),
        ("rollout run --save-histories data", {"save_histories"}),
        ("compare run --methods ad", {"methods"}),
        ("compare dark-room --methods add --out new", {"methods"}),
        ("compare dark-room --controls none --out new", {"controls"}),
        ("compare nowhere", {"what"}),
        ("inspect data --history 8", {"history"}),
        ("inspect nowhere", {"path"}),
    ],
)  # fmt: skip
def test_fields_are_named_as_their_flags(line, fields, complain):
    assert fields <= complain(line.format(**LINES, room=ROOM, model=MODEL))
