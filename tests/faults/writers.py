"""Two processes that want the same folder: one gets it, the other is told who has it."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.at_operations import collect_resumed, taken_up, train_resumed
from tests.faults.subjects import Subject, World
from tests.faults.trials import Fault, Outcome

TRIALS = 20

Work = Callable[[Path], int]


def faults(world: World) -> list[Fault]:
    """Beginning twice, going on twice, and replacing what another is writing."""
    found = []
    for subject in (world.collect, world.train):
        name = subject.name
        halfway = collect_resumed(world) if name == "collect" else train_resumed(world)
        pairs: list[tuple[str, Subject, Work]] = [
            (f"{name} beside {name}", subject, subject.begin),
            (f"{name} --overwrite beside {name}", subject, subject.overwrite),
            (f"{name} --resume beside {name} --resume", halfway, halfway.resume),
        ]
        found += [
            Fault(f"two writers: {title}", partial(_trial, world, first, second), TRIALS)
            for title, first, second in pairs
        ]
    return found


def _trial(world: World, subject: Subject, second: Work, index: int, rng: random.Random) -> Outcome:
    place = world.place("trial")
    subject.prepare(place)
    # As far apart as a command is long, or at the same moment.
    pause = rng.random() * 0.5 * rng.randrange(2)
    one = world.start(lambda: subject.begin(place))
    time.sleep(pause)
    two = world.start(lambda: second(place))
    ends = [one.wait(), two.wait()]
    for ended in ends:
        if ended.code != 0 and not ended.refused:
            return Outcome("lost", f"{pause:.3f} s apart: {ended}")
    if all(ended.code != 0 for ended in ends):
        return Outcome("lost", f"{pause:.3f} s apart, both refused: {ends[0]}, {ends[1]}")
    after = taken_up(world, subject, place, f"{pause:.3f} s apart")
    refusals = [ended.errors.strip() for ended in ends if ended.refused]
    return Outcome("refused", refusals[0]) if refusals and after.verdict == "survived" else after
