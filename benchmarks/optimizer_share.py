"""What Muon takes of an update: fastad's and PyTorch's in turn, in one process.

    python -m benchmarks.optimizer_share [--preset dark-room] [--threads N] [--rounds 9]

Prints a JSON object per kind: medians over all updates but those of the first round.
"""

import argparse
import json
import statistics
import time

import torch

from benchmarks.update import make_training
from fastad.base.device import set_threads
from fastad.training.muon import Muon

STEPS = {"fastad": Muon.step, "PyTorch": torch.optim.Muon.step}
UPDATES_PER_ROUND = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="dark-room")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    threads = set_threads(options.threads)
    training = make_training(options.preset)
    muon, adamw = training.optimizers

    def update(kind: str) -> tuple[float, float]:
        """Seconds of Muon's step, and of all."""
        began = time.perf_counter()
        training.backward()
        before = time.perf_counter()
        STEPS[kind](muon)
        after = time.perf_counter()
        adamw.step()
        training.model.zero_grad(set_to_none=True)
        return after - before, time.perf_counter() - began

    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in STEPS}
    for _ in range(options.rounds + 1):
        for kind, kept in seconds.items():
            kept += [update(kind) for _ in range(UPDATES_PER_ROUND)]
    for kind, kept in seconds.items():
        muon_s, all_s = map(statistics.median, zip(*kept[UPDATES_PER_ROUND:], strict=True))
        figures = {"muon_ms": muon_s * 1e3, "update_ms": all_s * 1e3, "share": muon_s / all_s}
        print(json.dumps({"muon": kind, "threads": threads} | figures))


if __name__ == "__main__":
    main()
