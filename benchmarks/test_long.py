"""One long sequence with a short attention window: are time and memory in proportion to tokens?

4 layers, width 64, window 2,048, rotary positions. Forward alone, the gradient with activations
kept ("train") and computed again ("activation checkpointing"), and a cached rollout step by step.
Each figure is of a fresh process; memory is above what it held once everything was loaded. The
remark says how many bytes a token takes, and the slope of memory and of processor time since the
next shorter case: 1 is linear, 2 quadratic, 0 constant.
"""

import json
import math
import os
import subprocess
import sys
from functools import cache
from typing import NamedTuple

import pytest
import torch

from benchmarks import long_probe
from benchmarks.harness import Measure, relative_difference
from benchmarks.models import DEVICE, make_model, random_steps

WINDOW = 2048


class Case(NamedTuple):
    """A number of tokens, and what is done with them."""

    task: str
    num_tokens: int
    window: int = WINDOW

    def __str__(self) -> str:
        return f"{self.task} T={self.num_tokens}"


LENGTHS = (4096, 8192, 16384, 32768)
CASES = [Case(task, length) for task in ("forward", "train", "rollout") for length in LENGTHS]
QUICK = [
    Case(task, length, 64) for task in ("forward", "train", "rollout") for length in (256, 512)
]
# Implementation of the kernels, and whether activations are computed again.
SIDES = {
    "C++": ("native", False),
    "C++, activation checkpointing": ("native", True),
    "PyTorch": ("sdpa", False),
    "PyTorch, activation checkpointing": ("sdpa", True),
}


def test_long(measure: Measure, case: Case, side: str) -> None:
    """See the module."""
    impl, checkpointing = SIDES[side]
    if DEVICE != "cpu":
        pytest.skip("this question is about CPUs")
    if checkpointing and case.task != "train":
        pytest.skip("nothing is kept for a backward pass")
    measure.row["group"] = case.task
    measure.gate(_difference(impl))
    found, shorter = _probe(case, side), _shorter(case)
    measure.values([case.num_tokens / found["seconds"]], unit="tokens/s")
    each = found["bytes"] / case.num_tokens
    remark = f"{found['bytes'] / 2**20:.0f} MiB, {each / 1024:.3g} KiB per token"
    if shorter is not None:
        before, ratio = _probe(shorter, side), math.log(case.num_tokens / shorter.num_tokens)
        memory, seconds = (
            math.log(max(found[name], 1) / max(before[name], 1e-9)) / ratio
            for name in ("bytes", "processor_seconds")
        )
        remark += f"; slope: memory {memory:.2f}, time {seconds:.2f}"
    measure.row["remark"] = remark


def _shorter(case: Case) -> Case | None:
    cases = [c for c in (CASES if case.window == WINDOW else QUICK) if c.task == case.task]
    index = cases.index(case)
    return cases[index - 1] if index else None


@cache
def _probe(case: Case, side: str) -> dict[str, float]:
    impl, checkpointing = SIDES[side]
    arguments = [case.task, str(case.num_tokens), str(case.window), impl]
    done = subprocess.run(
        [sys.executable, long_probe.__file__, *arguments, *["checkpointing"] * checkpointing],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]
    found: dict[str, float] = json.loads(done.stdout)
    return found


@cache
def _difference(impl: str) -> float:
    """Of banded logits from the specification's."""
    model, steps = make_model(64, positions="rope"), random_steps(1, 512)
    with torch.inference_mode():
        model.kernels = "reference"
        expected = model(steps).policy
        model.kernels = impl  # type: ignore[assignment]
        return relative_difference(model(steps).policy, expected)
