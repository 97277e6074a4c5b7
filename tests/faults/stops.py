"""SIGTERM, SIGHUP and Ctrl-C at random moments, once and twice: saved, and the way on is said."""

import os
import random
import shlex
import signal
import time
from functools import partial
from threading import Thread

import fastad.cli
from fastad.base.interrupt import ONE_REQUEST, STOP_SIGNALS, stop_signals
from fastad.cli import main
from tests.faults.at_operations import taken_up
from tests.faults.subjects import Subject, World
from tests.faults.trials import Fault, Outcome, signal_after

TRIALS = 20
SLOW_SYNC = 0.15  # seconds, so that a second signal meets a save

_mask = partial(signal.pthread_sigmask, signal.SIG_BLOCK, STOP_SIGNALS)


def faults(world: World) -> list[Fault]:
    """Every signal, for both commands; the second one kills while the first is obeyed."""
    return [
        Fault(f"{name}: {subject.name}", partial(trial, world, subject, number), TRIALS)
        for subject in (world.collect, world.train)
        for name, number, trial in (
            ("SIGTERM", signal.SIGTERM, _stopped),
            ("SIGHUP", signal.SIGHUP, _stopped),
            ("Ctrl-C", signal.SIGINT, _stopped),
            ("Ctrl-C twice", signal.SIGINT, _stopped_twice),
        )
    ]


def _only_within_a_command() -> None:
    """Deliver signals while the command handles them: the interpreter's start is not at stake."""
    _mask()

    class Handled:
        def __enter__(self) -> None:
            self.inner = stop_signals()
            self.inner.__enter__()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

        def __exit__(self, *error: object) -> bool | None:
            _mask()
            return self.inner.__exit__(*error)  # type: ignore[arg-type]

    fastad.cli.stop_signals = Handled  # type: ignore[assignment]


def _slow_disk() -> None:
    _only_within_a_command()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(SLOW_SYNC)
        fsync(descriptor)

    os.fsync = slow


def _stopped(
    world: World, subject: Subject, number: int, index: int, rng: random.Random
) -> Outcome:
    moment = rng.random() * world.duration(subject, _only_within_a_command).own

    def before() -> None:
        _only_within_a_command()
        signal_after(number, moment)

    place = world.place("trial")
    ended = world.start(partial(subject.begin, place), before).wait()
    where = f"{signal.Signals(number).name} to {subject.name}"
    if ended.code == 0:
        return taken_up(world, subject, place, where)
    lines = ended.errors.splitlines()
    if ended.code != 128 + number or len(lines) != 1 or not lines[0].startswith("fastad: "):
        return Outcome("lost", f"{where}: {ended}")
    command = shlex.split(lines[0].partition("go on with: ")[2])[1:]
    if not command:
        return Outcome("lost", f"{where}: no way on: {ended}")
    return taken_up(world, _taken_up_by(command, subject), place, where)


def _taken_up_by(command: list[str], subject: Subject) -> Subject:
    """The same, resumed by the very line that was printed."""
    return Subject(
        subject.name, subject.begin, lambda place: main(command), subject.contents, subject.check
    )


def _stopped_twice(
    world: World, subject: Subject, number: int, index: int, rng: random.Random
) -> Outcome:
    moment = rng.random() * world.duration(subject, _only_within_a_command).own
    pause = ONE_REQUEST + rng.random() * 4 * SLOW_SYNC

    def before() -> None:
        _slow_disk()
        signal_after(number, moment)
        # From another thread, as the second one comes whatever the first is doing.
        Thread(target=_again, args=(number, pause), daemon=True).start()

    place = world.place("trial")
    process = world.start(partial(subject.begin, place), before)
    ended = process.wait()
    where = f"{signal.Signals(number).name} twice to {subject.name}"
    if ended.code not in (0, -number, 128 + number) or "Traceback" in ended.errors:
        return Outcome("lost", f"{where}: {ended}")
    return taken_up(world, subject, place, where, kills=int(ended.code == -number))


def _again(number: int, pause: float) -> None:
    """Send this process a signal once more, so long after the first."""
    while getattr(signal.getsignal(number), "_asked_at", None) is None:
        time.sleep(0.002)
    time.sleep(pause)
    os.kill(os.getpid(), number)
