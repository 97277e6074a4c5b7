"""Memory of one process over a long life: 100,000 rollout steps, 10,000 updates, 200 rollouts.

    python -m tests.faults.memory --results FILE

Each is done in a process of its own, whose resident memory is read all along. Flat is what grows,
from the second tenth of the work to the last, by less than the noise of an allocator.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastad
from fastad.base.provenance import describe_machine

STEPS, UPDATES, ROLLOUTS = 100_000, 10_000, 200
FLAT = 2.0  # MiB of growth that an allocator's noise explains
ROOM: dict[str, Any] = {"size": 5, "episode_length": 20}
MODEL: dict[str, Any] = {
    "width": 16, "num_heads": 2, "num_layers": 2, "context": 60, "window": 60, "batch_size": 2,
    "threads": 1,
}  # fmt: skip
# Far apart enough for what is kept of a step, an update or a rollout to be seen.
Watch = Callable[[float], None]


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def steps(run: Path, watch: Watch) -> None:
    """One environment, one long context with a KV cache."""
    length = int(ROOM["episode_length"])
    fastad.rollout(
        run, episodes=STEPS // length, tasks=1, rollouts_per_task=1, kv_cache=True, threads=1,
        progress=lambda done, total, **figures: watch(done / total),
    )  # fmt: skip


def updates(run: Path, watch: Watch) -> None:
    """One training, with its log and its checkpoints."""
    fastad.train(
        data=run.with_name("data"), out=run.with_name("long"), updates=UPDATES, log_every=100,
        checkpoint_every=1000, eval_every=0, **MODEL,
        progress=lambda done, total, **figures: watch(done / total),
    )  # fmt: skip


def rollouts(run: Path, watch: Watch) -> None:
    """One rollout after another, each with its model, its tasks and its baselines."""
    for index in range(ROLLOUTS):
        fastad.rollout(run, episodes=2, tasks=2, rollouts_per_task=2, threads=1, seed=index)
        watch((index + 1) / ROLLOUTS)


WORK = {"steps": steps, "updates": updates, "rollouts": rollouts}
AMOUNT = {"steps": STEPS, "updates": UPDATES, "rollouts": ROLLOUTS}


def prepare(scratch: Path) -> Path:
    """A dataset, and a run of a few updates on it."""
    data, run = scratch / "data", scratch / "run"
    fastad.collect(out=data, env_options=ROOM, num_histories=8, num_episodes=20, num_test_tasks=2)
    fastad.train(data=data, out=run, updates=10, eval_every=0, **MODEL)
    return run


def measure(name: str, run: Path) -> dict[str, Any]:
    """Do the work in this process; MiB at each tenth, and what that amounts to."""
    seen: list[tuple[float, float]] = []

    def watch(share: float) -> None:
        if not seen or share - seen[-1][0] >= 0.004 or share == 1:
            seen.append((share, resident()))

    WORK[name](run, watch)
    gc.collect()
    shares, sizes = np.array(seen).T
    tenths = [float(sizes[np.abs(shares - tenth / 10).argmin()]) for tenth in range(11)]
    warm = shares >= 0.2
    slope = float(np.polyfit(shares[warm], sizes[warm], 1)[0])  # MiB over the whole work
    growth = tenths[10] - tenths[2]
    return {
        "what": name,
        "amount": AMOUNT[name],
        "resident_mib_at_tenths": [round(size, 2) for size in tenths],
        "growth_mib_after_warm_up": round(growth, 2),
        "slope_bytes_each": round(slope * 2**20 / AMOUNT[name], 2),
        "flat": growth <= FLAT,
    }


def main() -> int:
    """Measure all, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("flat-memory.json"))
    parser.add_argument("--run", type=Path, help="measure one here, on this run")
    parser.add_argument("names", nargs="*", help="all by default")
    asked = parser.parse_args()
    if asked.run is not None:
        print(json.dumps(measure(asked.names[0], asked.run)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        run = prepare(Path(scratch))
        for name in asked.names or WORK:
            command = [sys.executable, "-m", "tests.faults.memory", name, "--run", str(run)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    content = {"machine": describe_machine(), "rows": rows}
    asked.results.write_text(json.dumps(content, indent=1) + "\n")
    return int(not all(row["flat"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
