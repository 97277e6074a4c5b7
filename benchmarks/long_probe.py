"""Time and peak memory of one long sequence, in a process of its own; see test_long.py.

python long_probe.py forward|train|rollout TOKENS WINDOW IMPL [checkpointing], prints JSON
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

from benchmarks.memory_probe import forget_peak, peak_bytes
from benchmarks.models import make_model, random_steps
from fastad.acting.steps import Steps
from fastad.model.sequence_model import SequenceModel

WARM_UP = 256
SEGMENT = 1024  # steps of a rollout that are made at once


def forward(model: SequenceModel, num_tokens: int) -> None:
    """All predictions of one sequence."""
    with torch.inference_mode():
        model(random_steps(1, num_tokens))


def train(model: SequenceModel, num_tokens: int) -> None:
    """The gradient of one sequence."""
    steps = random_steps(1, num_tokens)
    logits = model(steps).policy.flatten(0, 1)
    F.cross_entropy(logits, steps.previous_action.flatten()).backward()
    model.zero_grad()


@torch.inference_mode()
def rollout(model: SequenceModel, num_tokens: int) -> None:
    """Step by step, with the cache."""
    memory = model.make_memory(1)
    segment: Steps = random_steps(1, min(SEGMENT, num_tokens))
    for step in range(num_tokens):
        at = step % SEGMENT
        memory.predict(segment.part(at, at + 1))


def main(task: str, num_tokens: int, window: int, impl: str, checkpointing: bool) -> dict:
    """Seconds, and bytes above what is held once everything has run on a tiny size."""
    run = {"forward": forward, "train": train, "rollout": rollout}[task]

    def make(window: int) -> SequenceModel:
        model = make_model(window, positions="rope").train(task == "train")
        model.kernels = impl  # type: ignore[assignment]
        if checkpointing:
            model.checkpoint_activations()
        return model

    run(make(64), WARM_UP)
    model = make(window)
    forget_peak()
    before, began, computed = peak_bytes(), time.perf_counter(), time.process_time()
    run(model, num_tokens)
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - computed,
        "bytes": peak_bytes() - before,
    }


if __name__ == "__main__":
    task, num_tokens, window, impl, *options = sys.argv[1:]
    print(json.dumps(main(task, int(num_tokens), int(window), impl, bool(options))))
