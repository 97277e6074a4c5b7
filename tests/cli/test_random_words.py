"""Any words behind any command: exit code 0 or 2, errors of one line, nothing written then."""

import contextlib
import io
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastad.cli import main
from fastad.cli.flags import flags_of
from fastad.cli.table import COMMANDS

# Everything that begins work or waits for it stands behind a command that has nothing to work on.
NOWHERE = "nowhere/at-all"
ODD = st.sampled_from(
    ["", "-", "--", "-1", "0", "1e400", "nan", "1" * 30, "none", "true", "a=b", "=", "a=", "{", "[",
     "*x", "\x1b[31m", "\udcff", "../..", "/dev/null", NOWHERE, "dark-room", "os:system",
     "gym:No-v0",
     "sb3:PPO", "sb3:a:b", "x" * 300, "-h=1", "--=", "---", "2", "auto", "cpu", "cuda:99", "a\nb"]
)  # fmt: skip


@st.composite
def command_lines(draw):
    """A command that cannot succeed in doing work, with flags, their values, and other words."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    flags = [flag for flag in flags_of(name) if flag not in ("--help", "--config")]
    words = draw(
        st.lists(st.sampled_from(flags) | ODD | st.text(max_size=5), max_size=6)
        if flags
        else st.lists(ODD, max_size=3)
    )
    return [name, *words]


# What each would work on, so that no random words set an hour's work off.
STOPS = {
    "collect": ["--num-histories", "0"],
    "train": ["--data", NOWHERE],
    "rollout": ["--run", NOWHERE],
    "compare": ["--what", NOWHERE],
    "inspect": ["--path", NOWHERE],
    "report": ["--runs", NOWHERE],
    "convert": ["--num-test-tasks", "-1"],
    "demo": ["--seed", "-1"],
    "bench": ["--questions", "nothing"],
    "doctor": ["--no-such"],
}


def run(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as stop:  # help
            status = stop.code or 0
    return status, err.getvalue()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty folder to stand in, which stays empty."""
    before, folder = os.getcwd(), tmp_path_factory.mktemp("empty")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@given(command_lines())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_end_with_0_or_2_and_leave_nothing(empty, line):
    name = line[0]
    # Behind "--" nothing would stop it.
    stop = ["--no-such"] if "--" in line else STOPS.get(name, [])
    status, errors = run([name, *stop] if "--" in line else [*line, *stop])
    assert status in (0, 2), line
    if status == 2:
        said = [text for text in errors.splitlines() if " is now --" not in text]
        assert len(said) == 1, (line, errors)
        assert said[0].startswith("fastad: ")
        assert said[0].isprintable()
    if name in STOPS:
        assert status == 2, line
    assert not list(empty.iterdir()), line


@given(st.lists(ODD | st.sampled_from([*sorted(COMMANDS), "help", "--help"]), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_in_place_of_a_command(empty, words):
    if words[:1] and words[0] in COMMANDS and words[0] in STOPS:
        words = ["help", *words]
    status, errors = run(words)
    assert status in (0, 2), words
    assert len(errors.splitlines()) == (status == 2), (words, errors)
    assert not list(empty.iterdir())
