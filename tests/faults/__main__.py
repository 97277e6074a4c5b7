"""What machines and clusters do to long jobs, caused on purpose, and counted: `make faults`.

    python -m tests.faults                       # everything, one to two hours
    python -m tests.faults kills --seed 1        # one part
    python -m tests.faults --results FILE        # stopped? the same line goes on where it was

Every trial ends as survived (what is left equals what an unbroken run leaves), refused by name
(one line, exit code 2, nothing lost) or as a loss; a traceback, a hang and a silent difference are
losses. The exit code is 1 if there was any.
"""

import argparse
import re
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import torch

from fastad.base.provenance import describe_machine
from fastad.training.numerics import _processor
from tests.faults.subjects import World
from tests.faults.trials import Results, Row, run_fault, table

PARTS = ("at_operations", "kills", "stops", "disks", "damage", "writers", "clocks", "numbers")
SAVE_EVERY = 10.0  # seconds


def main() -> int:
    """Try what was asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all by default")
    parser.add_argument("--only", default="", help="faults whose name this expression fits")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--results", type=Path, default=Path("faults.json"), help="a JSON file")
    parser.add_argument("--scratch", type=Path, help="a folder to work in")
    asked = parser.parse_args()
    machine = {**describe_machine(), "processor": _processor(torch.device("cpu"))}
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        world = World(Path(scratch))
        results = Results(asked.results, asked.seed, world.scratch)
        results.facts = {"machine": machine}
        for part in asked.parts or PARTS:
            for fault in import_module(f"tests.faults.{part}").faults(world):
                if not re.search(asked.only, fault.name):
                    continue
                began = time.monotonic()

                def after(row: Row, began: float = began) -> None:
                    results.save(at_least_after=SAVE_EVERY)
                    print(
                        f"\r{time.monotonic() - began:6.0f} s  {row.fault}: {row.trials} trials, "
                        f"{row.kills} kills, {len(row.losses)} losses",
                        end="", flush=True,
                    )  # fmt: skip

                run_fault(fault, results.row(fault.name), asked.seed, after)
                print()
                results.save()
    rows = list(results.rows.values())
    print(table(rows))
    for row in rows:
        print(*(f"{row.fault}: {loss}" for loss in row.losses), sep="\n", end="")
    return int(any(row.losses for row in rows))


if __name__ == "__main__":
    sys.exit(main())
