"""How many processors this process may use, and how its threads wait for each other."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Any of these is a user's own decision about how OpenMP's threads wait.
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
OURS = "FASTAD_WAITS_PASSIVELY"  # so that a child process knows who decided
CGROUPS = Path("/sys/fs/cgroup")


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has decided otherwise.

    By default they spin: quick on an idle machine, up to ten times slower as soon as one other
    program wants a processor, since whoever spins keeps it from the thread that all wait for.
    OpenMP reads the environment when it is loaded, so this comes before PyTorch or not at all.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAIT_SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ[OURS] = "1"


def describe_waiting() -> str:
    """How OpenMP's threads wait in this process, and who decided."""
    chosen = [f"{name}={os.environ[name]}" for name in WAIT_SETTINGS if name in os.environ]
    # A child of ours may have been given another setting, or none.
    if OURS in os.environ and chosen == ["OMP_WAIT_POLICY=PASSIVE"]:
        return f"{chosen[0]}, set by fastad: other programs slow it down only as much as they must"
    if chosen:
        return f"{', '.join(chosen)}, set by you"
    return (
        "spinning, since torch was imported before fastad; beside other programs that is many "
        "times slower: import fastad first, or set OMP_WAIT_POLICY=PASSIVE"
    )


@dataclass(frozen=True)
class Processors:
    """What limits the threads of this process.

    Attributes:
        online: Processors of the machine.
        allowed: Of those, the ones that this process may run on (`taskset`, batch systems).
        quota: Processors' worth of time that its control group gets (containers), None for any.
    """

    online: int
    allowed: int
    quota: float | None

    @property
    def usable(self) -> int:
        """Threads that can run at once; a quota of 1.5 is one, as two would be held up in turn."""
        limit = self.allowed if self.quota is None else min(self.allowed, int(self.quota))
        return max(1, limit)


def find_processors(proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> Processors:
    """The processors of this process, as its affinity and its control groups have it.

    Args:
        proc: Where the system describes processes.
        cgroups: Where control groups are mounted.
    """
    online = os.cpu_count() or 1
    # Other platforms have no affinity.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else online
    return Processors(online, allowed, min(_quotas(proc, cgroups), default=None))


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Every quota on the way from the control groups of this process to their roots."""
    for line in _read(proc / "self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            root, names = cgroups, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, names = cgroups / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        folder = root / group.lstrip("/")
        # In a container the path may be the host's, of which only the root is seen here.
        for place in {folder, *folder.parents} | {root}:
            if place == root or root in place.parents:
                numbers = " ".join(_read(place / name) for name in names).split()
                if len(numbers) == 2 and numbers[0].isdigit() and int(numbers[1]) > 0:
                    yield int(numbers[0]) / int(numbers[1])


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # no such group, or not Linux
        return ""
