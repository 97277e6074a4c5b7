"""Peak memory: of training over the length of the sequence, of a rollout over environments.

A banded model holds what is in proportion to its tokens, and its cache what its window needs.
"window = sequence" is the same model, seeing all; in a rollout it has kept 1,600 steps. "plain
scores" is that with attention as formulas have it, a matrix of all pairs per head. Each figure is
of a fresh process, above what it held once everything was loaded; repeats differ by 2 %.
"""

import os
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch

from benchmarks import memory_probe
from benchmarks.harness import Measure, needs_memory, relative_difference
from benchmarks.models import make_model, random_steps

WINDOW, ROLLOUT_CONTEXT, ROLLOUT_STEPS = 512, 400, 1600
LAYERS, HEADS, WIDTH, BYTES = 4, 4, 64, 4


class Case(NamedTuple):
    """`size` is steps of one sequence, or environments."""

    task: str
    size: int

    def __str__(self) -> str:
        return f"train T={self.size}" if self.task == "train" else f"rollout N={self.size}"


CASES = [
    *(Case("train", length) for length in (512, 1024, 2048, 4096, 8192)),
    *(Case("rollout", num_envs) for num_envs in (64, 256, 1024)),
]
QUICK = [Case("train", 256), Case("rollout", 4)]
SIDES = ("fastad", "window = sequence", "plain scores")


def test_memory(measure: Measure, case: Case, side: str) -> None:
    measure.row["group"] = "training" if case.task == "train" else "rollout"
    training, plain = case.task == "train", side == "plain scores"
    if plain and not training:
        pytest.skip("the scores of one new step are one row in any case")
    context = WINDOW if training else ROLLOUT_CONTEXT
    if side != "fastad":
        context = case.size if training else ROLLOUT_STEPS
    if plain:
        needs_memory(4 * BYTES * LAYERS * HEADS * case.size**2)
    if not training:
        needs_memory(2 * BYTES * LAYERS * WIDTH * context * case.size)
    measure.gate(_difference("reference" if plain else "auto"))
    impl = "reference" if plain else "auto"
    measure.values([_probe(case, context, impl) / 1e6], unit="MB")
    each = measure.row["median"] / case.size
    amount = f"{each:.3g} MB" if each >= 1 else f"{1e3 * each:.3g} kB"
    measure.row["remark"] = f"{amount} per {'step' if training else 'env'}"


@torch.no_grad()
def _difference(impl: str) -> float:
    """From the specification in float64, at a short length."""
    model, steps = make_model(50), random_steps(2, 200)
    model.kernels = impl  # type: ignore[assignment]
    actual = model(steps).policy.double()
    model.kernels = "reference"
    return relative_difference(actual, model.double()(steps).policy)


def _probe(case: Case, context: int, impl: str) -> int:
    """Bytes; the process finds what this one finds."""
    arguments = [case.task, str(case.size), str(context), impl]
    done = subprocess.run(
        [sys.executable, memory_probe.__file__, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]
    return int(done.stdout)
