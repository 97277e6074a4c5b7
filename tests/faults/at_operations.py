"""SIGKILL before and within every single operation on a file, of everything that writes.

Before one is after the one before it; and what is written through a map, by no operation at all,
is killed before it is flushed and after. What is left by two kills is often the same, byte for
byte: it is taken up once.
"""

import hashlib
import itertools
import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from fastad.base.locks import LOCK_FILE
from fastad.training import read_ahead, trainer
from tests.faults.operations import Operation, Operations, Point
from tests.faults.subjects import Subject, World
from tests.faults.trials import Ended, Fault, Outcome


def faults(world: World) -> list[Fault]:
    """One fault per subject, with a trial per operation and moment."""
    subjects = (
        world.collect, collect_resumed(world), world.train, train_resumed(world), world.create,
        world.rollout,
    )  # fmt: skip
    return [of_subject(world, subject) for subject in subjects]


def collect_resumed(world: World) -> Subject:
    """`collect --resume` of a dataset whose second shard was begun."""
    return _resumed(world, world.collect, "shard-00001/action.")


def train_resumed(world: World) -> Subject:
    """`train --resume` of a run that was killed while its second checkpoint was written."""
    return _resumed(world, world.train, "step-00000004.part/optimizer")


def _resumed(world: World, subject: Subject, where: str) -> Subject:
    halfway = world.place(f"halfway-{subject.name}")
    operations = operations_of(world, subject)
    number = next(i for i, o in enumerate(operations) if o.kind == "write" and where in o.path)
    kill_at(world, subject, halfway, number, "torn")

    def prepare(place: Path) -> None:
        shutil.copytree(halfway, place, dirs_exist_ok=True)

    return Subject(
        f"{subject.name} --resume", subject.resume, subject.resume, subject.contents,
        subject.check, prepare,
    )  # fmt: skip


def of_subject(world: World, subject: Subject) -> Fault:
    """Kill one subject at every operation."""
    points = [
        Point(number, when)
        for number, operation in enumerate(operations_of(world, subject))
        for when in ("before", "torn")
        if when != "torn" or operation.kind in ("write", "pwrite")
    ]
    points.append(Point(points[-1].number, "after"))
    trial = partial(_trial, world, subject, points, {})
    return Fault(f"SIGKILL at every operation on a file: {subject.name}", trial, trials=len(points))


def operations_of(world: World, subject: Subject) -> list[Operation]:
    """What a subject does to files, in order.

    Raises:
        RuntimeError: If it does something that would not be counted, or fails.
    """
    place, report = world.place("recorded"), world.scratch / "operations"
    subject.prepare(place)
    operations = Operations(place)

    def work() -> int:
        code = subject.begin(place)
        lines = [f"{kind}\t{path}" for kind, path in operations.seen]
        report.write_text("\n".join(lines + [f"missed\t{name}" for name in operations.missed]))
        return code

    ended = world.start(work, operations.install).wait()
    if ended.code != 0:
        raise RuntimeError(f"{subject.name}, recorded: {ended}")
    found = [Operation(*line.split("\t")) for line in report.read_text().splitlines()]
    missed = [str(operation) for operation in found if operation.kind == "missed"]
    if missed or not found:
        raise RuntimeError(f"{subject.name} does what is not counted: {missed}")
    return found


def kill_at(world: World, subject: Subject, place: Path, number: int, when: str) -> Ended:
    """Run a subject until it is killed there."""
    operations = Operations(place, Point(number, when), act=_die)

    def before() -> None:
        # Two trainings store the same times then, so that what they leave can be the same.
        seconds = itertools.count()
        trainer.time = SimpleNamespace(perf_counter=lambda: next(seconds))  # type: ignore[assignment]
        read_ahead.time = SimpleNamespace(perf_counter=lambda: 0.0)  # type: ignore[assignment]
        operations.install()

    return world.start(lambda: subject.begin(place), before).wait()


def _die(operation: Operation) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _trial(
    world: World, subject: Subject, points: list[Point], known: dict[str, Outcome], index: int,
    rng: random.Random,
) -> Outcome:  # fmt: skip
    place, point = world.place("trial"), points[index]
    subject.prepare(place)
    ended = kill_at(world, subject, place, *point)
    where = f"{point.when} operation {point.number} of {subject.name}"
    if ended.code != -signal.SIGKILL:
        return Outcome("lost", f"{where}: not killed: {ended}")
    state = _state(place)
    if state not in known:
        known[state] = taken_up(world, subject, place, where, kills=1)
    return known[state]


def _state(place: Path) -> str:
    """Everything in a folder; who held its locks is no part of it."""
    total = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        content = path.read_bytes() if path.is_file() and path.name != LOCK_FILE else b""
        total.update(repr((str(path.relative_to(place)), path.is_dir(), content)).encode())
    return total.hexdigest()


def taken_up(world: World, subject: Subject, place: Path, where: str, *, kills: int = 0) -> Outcome:
    """Look at what was left by an interruption, and take it up."""
    lost = subject.check(place)
    if lost:
        return Outcome("lost", f"{where}: damaged: {lost}", kills)
    ended, differ = world.finish(subject, place)
    if ended.code != 0 or differ:
        return Outcome("lost", f"{where}: then {ended}, different: {differ}", kills)
    return Outcome("survived", kills=kills)
