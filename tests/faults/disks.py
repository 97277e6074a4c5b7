"""Disks that are full, read-only or failing, and limits that are reached, as real as can be.

Small disks are mounted where that is permitted (root on Linux); everywhere, each operation on a
file fails in turn, as the operating system would let it fail.
"""

import errno
import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.faults.at_operations import operations_of, taken_up
from tests.faults.operations import Operation, Operations, Point
from tests.faults.subjects import Subject, World
from tests.faults.trials import Ended, Fault, Outcome

TRIALS = 20
NOBODY = 65534
WRITES = ("write", "byte", "pwrite", "posix_fallocate", "truncate", "ftruncate")
CREATES = ("open", "mkdir", "rename", "replace", "link", "symlink")


def faults(world: World) -> list[Fault]:
    """Real disks and limits, then a failure at every operation."""
    failing = (world.collect, world.train, world.rollout)
    return [*of_limits(world), *(of_operations(world, subject) for subject in failing)]


def of_limits(world: World) -> list[Fault]:
    """Real disks and limits, for both commands."""
    subjects = (world.collect, world.train)
    limits = (
        ("a limit on the size of files", _size_limit, TRIALS),
        ("too many open files", _open_limit, TRIALS),
        ("a folder that is another's", _no_permission, 4),
    )
    found = [
        Fault(f"{name}: {subject.name}", partial(_limited, world, subject, limit), trials)
        for name, limit, trials in limits
        for subject in subjects
    ]
    disks = (("full disk", _small, TRIALS), ("full inodes", _few_inodes, TRIALS),
             ("read-only disk", _read_only, 4))  # fmt: skip
    if may_mount(world):
        found += [
            Fault(f"{name}: {subject.name}", partial(_on_disk, world, subject, options), trials)
            for name, options, trials in disks
            for subject in subjects
        ]
    return found


# --- a failure at every operation


def of_operations(world: World, subject: Subject) -> Fault:
    """Every operation fails once, with an error that it may have."""
    points = []
    for number, operation in enumerate(operations_of(world, subject)):
        points.append((Point(number, "before"), _error_of(operation)))
        if operation.kind in ("write", "pwrite"):
            points.append((Point(number, "torn"), errno.ENOSPC))
    trial = partial(_failing, world, subject, points)
    return Fault(f"every operation on a file fails: {subject.name}", trial, trials=len(points))


def _error_of(operation: Operation) -> int:
    if operation.kind in WRITES or operation.kind in CREATES:
        return errno.ENOSPC
    return errno.EIO


def _failing(
    world: World, subject: Subject, points: list[tuple[Point, int]], index: int, rng: random.Random
) -> Outcome:
    place, (point, number) = world.place("trial"), points[index]
    subject.prepare(place)

    def fail(operation: Operation) -> None:
        path = f"{place}{operation.path}"
        # Where only a descriptor is known, the error has no name.
        names = () if operation.kind in WRITES or operation.kind == "fsync" else (path,)
        raise OSError(number, os.strerror(number), *names)

    operations = Operations(place, point, fail)
    ended = world.start(lambda: subject.begin(place), operations.install).wait()
    where = f"{errno.errorcode[number]} {point.when} operation {point.number} of {subject.name}"
    return refused_or_whole(world, subject, place, ended, where)


def refused_or_whole(
    world: World, subject: Subject, place: Path, ended: Ended, where: str
) -> Outcome:
    """A command that ended under a fault said so in one line, or did all; then it is taken up."""
    if ended.code != 0 and not ended.refused:
        return Outcome("lost", f"{where}: {ended}")
    after = taken_up(world, subject, place, f"{where} ({ended})")
    if after.verdict == "lost" or ended.code == 0:
        return after
    return Outcome("refused", ended.errors.strip())


# --- limits


def _limited(
    world: World, subject: Subject, limit: Callable[[Path, random.Random], Callable[[], None]],
    index: int, rng: random.Random,
) -> Outcome:  # fmt: skip
    place = world.place("trial")
    before = limit(place, rng)
    ended = world.start(lambda: subject.begin(place), before).wait()
    place.chmod(0o777)
    return refused_or_whole(world, subject, place, ended, f"{limit.__name__} on {subject.name}")


def _size_limit(place: Path, rng: random.Random) -> Callable[[], None]:
    size = int(2 ** rng.uniform(3, 14))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _open_limit(place: Path, rng: random.Random) -> Callable[[], None]:
    spare = rng.randrange(12)

    def limit() -> None:
        used = 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, used + spare))
        with suppress(OSError):
            while True:  # fill the gaps
                os.open(os.devnull, os.O_RDONLY)
        os.closerange(used, used + spare)

    return limit


def _no_permission(place: Path, rng: random.Random) -> Callable[[], None]:
    place.chmod(0o555)
    if os.geteuid() != 0:
        return lambda: None

    def drop() -> None:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)

    return drop


# --- real disks


def may_mount(world: World) -> bool:
    """Whether small disks can be mounted here."""
    try:
        with mounted(world.place("disk"), "size=64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A small disk, within the block."""
    _mount("-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _small(rng: random.Random) -> str:
    return f"size={4 * rng.randint(1, 40)}k"


def _few_inodes(rng: random.Random) -> str:
    return f"size=4m,nr_inodes={rng.randint(2, 40)}"


def _read_only(rng: random.Random) -> str:
    return "ro,size=4m"


def _on_disk(
    world: World, subject: Subject, options: Callable[[random.Random], str], index: int,
    rng: random.Random,
) -> Outcome:  # fmt: skip
    place, chosen = world.place("disk"), options(rng)
    with mounted(place, chosen):
        ended = world.start(lambda: subject.begin(place)).wait()
        # Somebody makes room.
        _mount("-o", "remount,rw,size=64m,nr_inodes=10000", str(place))
        return refused_or_whole(world, subject, place, ended, f"{chosen} for {subject.name}")
