"""How fast is fastad beside one other program that keeps a processor busy?

    python -m benchmarks.busy_neighbour [--rounds 3] [--seconds 2] [--json FILE]

Training (dark-room's updates), rollout (64 environments, context 200) and collection (dark-room's,
to the disk), in fresh processes, settings in turn: idle and busy; as fastad sets OpenMP up, with
one thread, and spinning as OpenMP does by itself. The table's shares are of the speed of one thread
on the idle machine: beside a neighbour, at least 0.7 is asked for.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

THREADS, SPINNING = {"OMP_NUM_THREADS": "1"}, {"GOMP_SPINCOUNT": "300000"}  # libgomp's default
SETTINGS: dict[str, tuple[bool, dict[str, str]]] = {
    "idle, one thread": (False, THREADS),
    "idle, default": (False, {}),
    "idle, spinning": (False, SPINNING),
    "busy, one thread": (True, THREADS),
    "busy, default": (True, {}),
    "busy, spinning": (True, SPINNING),
}
REFERENCE = "idle, one thread"


def main() -> None:
    """Measure every setting in turn, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="per kind of work and round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(probe(options.seconds)))
        return
    rounds: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    for _ in range(options.rounds):
        for setting, (busy, environment) in SETTINGS.items():
            with neighbour() if busy else contextlib.nullcontext():
                rounds[setting].append(measure(environment, options.seconds))
    rates = {
        setting: {work: statistics.median(row[work] for row in rows) for work in rows[0]}
        for setting, rows in rounds.items()
    }
    print(table(rates))
    if options.json is not None:
        from fastad.base.provenance import describe_machine

        content = {"machine": describe_machine(), "rates": rates, "rounds": rounds}
        options.json.write_text(json.dumps(content, indent=2))


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A program that never rests."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(environment: dict[str, str], seconds: float) -> dict[str, float]:
    """Work per second, by kind, in a fresh process: OpenMP reads its settings only once."""
    ours = ("OMP_", "GOMP_", "MKL_", "KMP_", "FASTAD_WAITS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-m", "benchmarks.busy_neighbour", "--probe", "--seconds"]
    done = subprocess.run(
        [*command, str(seconds)], env=kept | environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def probe(seconds: float) -> dict[str, float]:
    """Work per second of each kind in this process."""
    import fastad  # noqa: F401  before torch, as in the commands: it decides how threads wait
    from benchmarks.models import dark_room, make_model
    from benchmarks.update import make_training
    from fastad.base.device import set_threads
    from fastad.histories.jobs import collect
    from fastad.rollouts.engine import rollout

    set_threads()
    training, model = make_training(), make_model(200)
    env, generator = dark_room(64)

    def roll_out() -> None:
        rollout(model, env, num_episodes=5, generator=generator)

    with tempfile.TemporaryDirectory() as folder:

        def collect_histories() -> None:
            collect(
                Path(folder) / "data", env="dark-room", source="frontier", num_histories=1024,
                num_episodes=10, num_test=16, overwrite=True,
            )  # fmt: skip

        return {
            "train, updates/s": rate(training.update, 1, seconds),
            "rollout, steps/s": rate(roll_out, 64 * 5 * 20, seconds),
            "collect, steps/s": rate(collect_histories, 1024 * 10 * 20, seconds),
        }


def rate(work: Callable[[], None], units: int, seconds: float) -> float:
    """Units per second of `work`, after one call that warms up."""
    work()
    began, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        work()
        calls += 1
    return units * calls / spent


def table(rates: dict[str, dict[str, float]]) -> str:
    """A row per setting; in brackets, the share of one thread's speed on the idle machine."""
    kinds = list(rates[REFERENCE])
    lines = [f"{'':18}" + "".join(f"{kind:>24}" for kind in kinds)]
    for setting, row in rates.items():
        cells = (f"{row[kind]:,.1f} ({row[kind] / rates[REFERENCE][kind]:.2f})" for kind in kinds)
        lines.append(f"{setting:18}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
