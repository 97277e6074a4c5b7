"""Options and bare words in any order mean the same, and nothing is misread silently."""

import itertools
from pathlib import Path

import pytest

from fastad.base.errors import UserError
from fastad.cli import main
from fastad.cli.flags import flags_of, parse
from fastad.cli.words import sort_words
from fastad.commands.bench import BenchConfig

COLLECT = [
    ["data/x"],
    ["--env-options", "size=3", "episode_length=4"],
    ["--action-noise", "0.1"],
    ["--resume"],
    ["--source-options=gamma=0.5", "kind=a b"],
]
TRAIN = [
    ["data/x"],
    ["--adam-betas", "0.8", "0.9"],
    ["--updates=3"],
    ["--no-episode-step"],
    ["--config", "bandit"],
]


def in_every_order(name, chunks):
    """What the words mean, in whatever order; the config once, since building it takes longer."""
    lines = [[*itertools.chain(*order)] for order in itertools.permutations(chunks)]
    first, *others = [sort_words(name, line, flags_of(name)) for line in lines]
    assert all(other == first for other in others)
    return parse(name, lines[0])


def test_collect_means_the_same_in_every_order():
    config = in_every_order("collect", COLLECT)
    assert (config.out, config.resume, config.action_noise) == (Path("data/x"), True, 0.1)
    assert config.env_options == ("size=3", "episode_length=4")
    assert config.source_options == ("gamma=0.5", "kind=a b")


def test_train_means_the_same_in_every_order():
    config = in_every_order("train", TRAIN)
    assert (config.data, config.settings.updates) == (Path("data/x"), 3)
    assert config.settings.adam_betas == (0.8, 0.9)
    assert config.model.episode_step is False
    assert config.settings.batch_size == 24  # the preset's


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("demo --seed 4 bandit", "preset", "bandit"),
        ("rollout --kv-cache runs/x", "run", Path("runs/x")),
        ("rollout --no-kv-cache runs/x --greedy", "run", Path("runs/x")),
        ("rollout --tasks 3 runs/x", "run", Path("runs/x")),
        ("inspect --tokens data/x --steps 3", "path", Path("data/x")),
        ("collect --env-options size=3 data/lr=1", "out", Path("data/lr=1")),
        ("collect --env_options size=3 -- --odd", "out", Path("--odd")),
        ("collect --out=--odd", "out", Path("--odd")),
        ("collect --env-options size=3 --env-options start=centre", "env_options",
         ("size=3", "start=centre")),
        ("train --seed 1 --seed 2", "settings.seed", 2),
        ("rollout --kv-cache --no-kv-cache --kv-cache", "kv_cache", True),
        ("rollout --kv-cache --greedy --no-kv-cache", "kv_cache", False),
        ("train --threads None data/x", "threads", None),
    ],
)  # fmt: skip
def test_a_bare_word_is_never_taken_for_a_value(line, field, value):
    config = parse(line.split()[0], line.split()[1:])
    for name in field.split("."):
        config = getattr(config, name)
    assert config == value


@pytest.mark.parametrize(
    "line", ["rollout --quick train", "--quick rollout train", "--quick --questions rollout train"]
)
def test_questions_stand_before_and_after_switches(line):
    expected = BenchConfig(questions=("rollout", "train"), quick=True)
    assert parse("bench", line.split()) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train a --updates 3 b", "one bare word, its DATA, and 'a' and 'b' are 2"),
        ("collect --env-options size=3 start x", "are 2; .*--env-options takes KEY=VALUE words"),
        ("collect --env-options size x", "--env-options: 'size' is not of the form KEY=VALUE"),
        ("collect --env-options --seed 3", "--env-options: what follows is not .* KEY=VALUE"),
        ("rollout --kv-cache false", "--kv-cache takes no value, and 'false' follows it"),
        ("collect --resume=yes", "--resume takes no value, and 'yes' .* --resume .* --no-resume"),
        ("collect --no-resume 1", "--no-resume takes no value.* --resume for yes"),
        ("train --out --resume", "--out needs a value; .* written --out=VALUE"),
        ("train x --updates", "--updates needs a value$"),
        ("train --adam-betas 0.9 --seed 1", "--adam-betas needs 2 values"),
        ("train --data a b", "--data a and the bare 'b' are both --data; keep one"),
        ("doctor x", "fastad doctor takes no bare words; 'x' belongs to no option"),
        ("train -updates 3", "'-updates'; did you mean '--updates'"),
    ],
)
def test_what_could_be_misread_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        parse(line.split()[0], line.split()[1:])


def test_a_negative_number_is_a_value():
    with pytest.raises(UserError, match=r"learning_rate=-1\.0 must be above 0"):
        parse("train", ["--learning-rate", "-1", "data/x"])


@pytest.mark.parametrize(
    "line", [["help", "train"], ["train", "help"], ["train", "x", "--updates", "3", "-h"]]
)
def test_help_is_shown_wherever_it_is_asked_for(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert stop.value.code in (0, None)
    assert capsys.readouterr().out.startswith("usage: fastad train [DATA]")


def test_an_option_before_the_command_is_told_its_place(capsys):
    assert main(["--seed", "3", "train"]) == 2
    assert "fastad COMMAND --seed ..." in capsys.readouterr().err
