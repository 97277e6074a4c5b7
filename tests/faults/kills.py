"""SIGKILL at random moments: what is left goes on exactly, however often.

A child is forked with everything imported, so that its whole life is work, and killed after a
random share of the processor time that the work takes. It is taken up again, and killed again,
until one comes to its end; what it leaves must equal what an unbroken run leaves, and nothing
that was complete at one kill may be gone at the next.
"""

import random
import signal
import time
from functools import partial
from pathlib import Path

from tests.faults.subjects import COLLECT, Subject, World, data_of, of_command
from tests.faults.trials import Fault, Outcome, signal_after

KILLS = 1000
MAX_KILLS = 16  # of one life
CHECK_EVERY = 4  # kills, every file is held to its digest
WORKERS_KILLS = 12  # workers import everything anew, for seconds


def faults(world: World) -> list[Fault]:
    """Both commands, and collecting with two workers, which a kill orphans."""
    subjects = [(world.collect, KILLS), (world.train, KILLS), (with_workers(), WORKERS_KILLS)]
    return [
        Fault(f"SIGKILL at random: {subject.name}", partial(_trial, world, subject), kills=kills)
        for subject, kills in subjects
    ]


def with_workers() -> Subject:
    """`collect` whose shards are collected by two processes."""
    return of_command("collect --workers 2", [*COLLECT, "--workers", "2"], data_of)


def _trial(world: World, subject: Subject, index: int, rng: random.Random) -> Outcome:
    place, kills, complete = world.place("trial"), 0, 0
    work, duration = subject.begin, world.duration(subject)
    for _ in range(rng.randint(1, MAX_KILLS)):
        # The more is done, the less is left to do.
        share = rng.random() ** (1 + kills / 4)
        before = partial(signal_after, signal.SIGKILL, share * duration.own)
        process = world.start(partial(work, place), before if duration.is_own else None)
        if not duration.is_own:
            time.sleep(share * duration.wall)
            process.send(signal.SIGKILL)
        ended = process.wait()
        if ended.code == 0:
            break
        if ended.code != -signal.SIGKILL:
            return Outcome("lost", f"after {kills} kills: {ended}", kills)
        kills += 1
        lost = subject.check(place) if kills % CHECK_EVERY == 0 else ""
        now = _num_complete(place / "out")
        if lost or now < complete:
            gone = f"{now} complete, {complete} before"
            return Outcome("lost", f"after {kills} kills: {gone}; {lost}", kills)
        complete, work = now, subject.resume
    ended, differ = world.finish(subject, place)
    if ended.code != 0 or differ:
        return Outcome("lost", f"after {kills} kills: {ended}, different: {differ}", kills)
    return Outcome("survived", kills=kills)


def _num_complete(out: Path) -> int:
    """Complete shards of a dataset, or the update of a run's newest checkpoint."""
    digests = [m for m in out.glob("shard-*/meta.json") if b'"digests": {}' not in m.read_bytes()]
    steps = [int(c.name[5:]) for c in out.glob("checkpoints/step-*") if c.suffix != ".part"]
    return max([len(digests), *steps])
