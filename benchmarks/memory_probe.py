"""Peak memory of one training update or one rollout, in a process of its own; see test_memory.py.

python memory_probe.py train|rollout SIZE CONTEXT IMPL, prints bytes
"""

import resource
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.models import DEVICE, make_model, random_steps
from fastad.model.sequence_model import SequenceModel

WARM_UP = 64
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def update(model: SequenceModel, length: int) -> None:
    """Two updates on one sequence; AdamW's state is there in the second."""
    optimizer = torch.optim.AdamW(model.parameters())
    steps = random_steps(1, length)
    for _ in range(2):
        F.cross_entropy(
            model(steps).policy.flatten(0, 1), steps.previous_action.flatten()
        ).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.inference_mode()
def roll_out(model: SequenceModel, num_envs: int) -> None:
    """Three steps with a full cache, which is filled without a forward pass."""
    memory = model.make_memory(num_envs)
    for ring in memory.rings:
        # Expanded, not repeated: what fills the rings takes no memory of its own.
        shape = (num_envs, model.config.context, *ring.keys.shape[2:])
        tokens = torch.zeros((), device=DEVICE).expand(shape)
        ring.append(tokens, tokens)
    steps = random_steps(num_envs, 1)
    for _ in range(3):
        model(steps, memory)


def peak_bytes() -> int:
    """The most this process has held at once."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not ru_maxrss where there is better: on Linux it includes the process that started this one.
    if STATUS.exists():
        (line,) = (row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def forget_peak() -> None:
    """What importing took at its height is nobody's business here."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        RESET.write_text("5")


def main(task: str, size: int, context: int, impl: str) -> int:
    """Bytes above what is held once everything has run on a tiny size."""
    run = update if task == "train" else roll_out

    def make(context: int) -> SequenceModel:
        model = make_model(context).train(task == "train")
        model.kernels = impl  # type: ignore[assignment]
        return model

    run(make(WARM_UP), WARM_UP if task == "train" else 1)
    model = make(context)
    forget_peak()
    before = peak_bytes()
    run(model, size)
    return peak_bytes() - before


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
