"""A short turn of `make faults`: a few trials of every kind, and the bench itself."""

import random
import sys

import pytest

from fastad.cli import main
from tests.faults import at_operations, clocks, damage, disks, kills, numbers, stops, writers
from tests.faults.subjects import Subject, World
from tests.faults.trials import Fault, Outcome, Results, Row, run_fault, table

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="faults are caused as Linux does"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("faults"))
    yield world
    world.close()


def named(faults, *beginnings):
    """One fault for each beginning of a name."""
    return [next(f for f in faults if f.name.startswith(b)) for b in beginnings]


def try_few(fault, num_trials, *, of=None):
    """Trials spread evenly over all, or the first ones; none may be a loss."""
    row = Row(fault.name)
    for index in range(num_trials):
        number = index if of is None else index * of // num_trials
        row.count(fault.trial(number, random.Random(number)))
    assert not row.losses
    return row


def test_a_kill_at_an_operation_on_a_file_costs_nothing(world):
    for subject in (at_operations.train_resumed(world), world.create):
        fault = at_operations.of_subject(world, subject)
        assert try_few(fault, 4, of=fault.trials).kills == 4


def test_kills_at_random_moments_cost_nothing(world):
    for fault in named(kills.faults(world), "SIGKILL at random: c", "SIGKILL at random: t"):
        assert try_few(fault, 1).survived == 1


def test_signals_save_and_say_how_to_go_on(world):
    names = ("SIGTERM: collect", "Ctrl-C twice: train")
    for fault in named(stops.faults(world), *names):
        try_few(fault, 1)


def test_whatever_the_disk_refuses_is_one_line_and_nothing_is_lost(world):
    fault = disks.of_operations(world, world.train)
    assert try_few(fault, 4, of=fault.trials).refused >= 3
    few = ("a limit on the size of files: train", "too many open files: collect")
    for fault in named(disks.of_limits(world), *few):
        try_few(fault, 1)


def test_no_damage_is_silent(world):
    for fault in damage.faults(world):
        assert try_few(fault, 1).refused == 1


def test_of_two_writers_one_is_told_of_the_other(world):
    (fault,) = named(writers.faults(world), "two writers: collect --overwrite")
    try_few(fault, 1)


def test_clocks_may_jump_and_later_formats_are_told_apart(world):
    jumps, newer = named(clocks.faults(world), "the clock jumps by years: t", "a format")
    try_few(jumps, 1)
    assert try_few(newer, newer.trials).refused == newer.trials


def test_a_loss_that_is_no_number_is_named_with_its_update(world):
    for fault in numbers.faults(world):
        assert try_few(fault, 1).refused == 1


# --- the bench itself


def test_what_an_operation_loses_is_a_loss(world):
    """A command that writes in place, and goes on from whatever is there."""

    def write(place):
        with (place / "out").open("ab") as stream:
            stream.write(b"half of it is not the whole")
        return 0

    subject = Subject(
        "in place", write, write, lambda place: {"out": (place / "out").read_bytes()},
        check=lambda place: "",
    )  # fmt: skip
    fault = at_operations.of_subject(world, subject)
    row = Row(fault.name)
    run_fault(fault, row, seed=0)
    # Opened; written, in half or in whole; and the first moment of all, which costs nothing.
    assert (row.trials, row.survived, len(row.losses)) == (4, 2, 2)


def test_hangs_tracebacks_and_wrong_exit_codes_are_no_refusals(world):
    def fail():
        raise ValueError("a traceback")

    assert not world.start(fail).wait().refused
    assert not world.start(lambda: 2).wait().refused
    assert not world.start(lambda: main(["--version"])).wait().refused
    assert world.start(lambda: main(["nonsense"])).wait().refused
    hanging = world.start(lambda: __import__("time").sleep(60)).wait(seconds=0.2)
    assert hanging.code < 0
    assert not hanging.refused


def test_damage_that_nobody_notices_is_a_loss(world, monkeypatch):
    monkeypatch.setattr(damage, "quietly", lambda command: (0, "every file is what was written"))
    fault = damage.faults(world)[0]
    assert fault.trial(0, random.Random(0)).verdict == "lost"  # which training refuses all the same
    monkeypatch.setattr(damage, "quietly", lambda command: (1, "something is wrong"))
    assert fault.trial(0, random.Random(0)).verdict == "lost"


def test_a_stopped_bench_goes_on_where_it_was(tmp_path):
    tried = []

    def trial(index, rng):
        tried.append((index, rng.random()))
        return Outcome("lost" if index == 1 else "survived", "gone", kills=2)

    fault = Fault("some", trial, trials=4)
    first = Results(tmp_path / "results.json", 3, tmp_path)
    run_fault(Fault("some", trial, trials=2), first.row("some"), 3)
    first.save()
    again = Results(tmp_path / "results.json", 3, tmp_path)
    run_fault(fault, again.row("some"), 3)
    assert [index for index, _ in tried] == [0, 1, 2, 3]
    row = again.rows["some"]
    assert (row.trials, row.kills, row.survived, row.losses) == (4, 8, 3, ["gone"])
    assert table([row]).splitlines()[-1].split() == ["in", "all", "4", "8", "3", "0", "1"]
