"""Signals that ask real commands to stop: what was done is kept, and the way on is said."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest

from fastad.base.interrupt import Stopped, deferred_interrupt, stop_signals
from fastad.cli import main
from fastad.histories.reader import HistoryDataset

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
TRAIN = ["--width", "16", "--num-layers", "1", "--context", "12", "--threads", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "room"
    assert main(["collect", str(path), *COLLECT]) == 0
    return path


def start(*arguments, **options):
    command = [sys.executable, "-m", "fastad", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **(pipes | options))


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def last_step(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def kept_by(run, errors, name):
    """The command to go on with, once it is certain that the last update was kept."""
    (kept,) = (run / "checkpoints").iterdir()
    assert kept.name == f"step-{last_step(run):08d}"
    said, _, way_on = errors.splitlines()[-1].partition("go on with: ")
    assert said == f"fastad: stopped by {name}; what was finished is kept; "
    return shlex.split(way_on)


def test_a_stopped_training_keeps_its_last_update_and_says_how_to_go_on(data, tmp_path):
    run = tmp_path / "the run"  # a space: the line must be one that a shell takes
    options = [*TRAIN, "--updates", "3000", "--log-every", "1", "--checkpoint-every", "0"]
    process = start("train", data, "--out", run, *options)
    wait_for(lambda: (run / "metrics.jsonl").exists() and last_step(run) >= 3, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    way_on = kept_by(run, errors, "SIGTERM")
    assert way_on == ["fastad", "train", str(data), "--out", str(run), *options, "--resume"]


def test_a_terminal_that_closes_costs_no_update(data, tmp_path):
    run, (ours, theirs) = tmp_path / "run", os.openpty()
    os.set_blocking(ours, False)
    options = [*TRAIN, "--updates", "3000", "--log-every", "1", "--checkpoint-every", "0"]
    process = start(
        "train", data, "--out", run, *options, stdout=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)

    def has_begun():
        with suppress(BlockingIOError):
            os.read(ours, 2**16)  # a full terminal would block it
        return (run / "metrics.jsonl").exists() and last_step(run) >= 3

    wait_for(has_begun, process)
    os.close(ours)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 129, errors
    kept_by(run, errors, "SIGHUP")


def test_a_stopped_collection_keeps_its_complete_shards_and_is_finished_by_the_line_it_prints(
    tmp_path,
):
    options = [*ROOM, "--num-histories", "24", "--num-episodes", "150", "--num-test-tasks", "2"]
    out = tmp_path / "data"
    process = start("collect", out, *options, "--shards", "6", "--workers", "2")

    def complete():
        metas = (out / f"shard-{i:05d}" / "meta.json" for i in range(6))
        return sum('"committed_steps": 600' in m.read_text() for m in metas if m.exists())

    wait_for(lambda: complete() >= 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert 1 <= complete() < 6
    way_on = shlex.split(errors.splitlines()[-1].partition("go on with: ")[2])
    assert way_on[-1] == "--resume"
    assert main(way_on[1:]) == 0
    assert HistoryDataset(out).complete


def test_nohup_means_it(data, tmp_path):
    run = tmp_path / "run"
    options = [*TRAIN, "--updates", "40", "--log-every", "1"]
    process = start(
        "train", data, "--out", run, *options,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    wait_for((run / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert last_step(run) == 40


SLEEPER = """
import sys, time
from fastad.base.interrupt import Stopped, stop_signals
with stop_signals():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except Stopped:
        print("saving", flush=True)
        time.sleep(60)
"""


def test_the_second_signal_kills_at_once():
    command = [sys.executable, "-c", SLEEPER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "saving\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM


def test_a_signal_within_work_that_must_not_be_torn_waits_for_its_end():
    done = []

    def work():
        with deferred_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # `timeout` sends it twice
            done.append("the work")
        done.append("never")

    with stop_signals(), pytest.raises(Stopped, match="SIGTERM") as stopped:
        work()
    assert stopped.value.number == signal.SIGTERM
    assert done == ["the work"]


def test_handlers_are_those_of_before_once_a_command_is_over():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert main(["--version"]) == 0
    assert [signal.getsignal(number) for number in numbers] == before


def test_in_a_script_ctrl_c_waits_for_the_work_and_the_second_does_not():
    done = []

    def work(requests):
        with deferred_interrupt():
            for _ in range(requests):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.25)
            done.append(requests)

    for requests in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            work(requests)
    assert done == [1]


def test_a_closing_terminal_is_told_apart_from_a_failing_output():
    def work(signals):
        with deferred_interrupt():
            for number in signals:
                os.kill(os.getpid(), number)
            raise OSError(5, "Input/output error")

    with stop_signals(), pytest.raises(Stopped, match="SIGHUP"):
        work([signal.SIGHUP])
    with stop_signals(), pytest.raises(OSError, match="Input/output"):
        work([])


def wait_in_c():
    """As Ray's waiting, which raises an interrupt of its own instead of the handler's."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


def test_a_library_that_waits_in_c_does_not_hide_which_signal_came():
    with pytest.raises(Stopped, match="SIGTERM"), stop_signals():
        wait_in_c()
    with pytest.raises(KeyboardInterrupt) as interrupt, stop_signals():
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(interrupt.value, Stopped)
