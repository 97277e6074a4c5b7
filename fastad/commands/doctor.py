"""`fastad doctor`: what this machine can use, each with one tiny check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DoctorConfig:
    """Show devices, versions and attention backends, and check that each one works."""


def run_doctor(config: DoctorConfig) -> None:
    """Print one line per thing; nothing is changed."""
    import importlib.util
    from importlib.metadata import version

    import torch
    from fastad_kernels import IMPLEMENTATIONS

    from fastad.base.device import set_threads
    from fastad.base.processors import describe_waiting, find_processors
    from fastad.base.provenance import describe_machine

    for name, value in describe_machine().items():
        print(f"{name:<28} {value}")
    for library in ("gymnasium", "safetensors", "tyro"):
        print(f"{library:<28} {version(library)}")
    found = importlib.util.find_spec("triton") is not None
    print(f"{'triton':<28} {version('triton') if found else 'not installed'}")
    cores = find_processors()
    quota = "" if cores.quota is None else f", {cores.quota:g} by its control group"
    print(f"{'processors':<28} {cores.online}, {cores.allowed} for this process{quota}")
    print(f"{'threads, by default':<28} {set_threads()}")
    print(f"{'threads wait':<28} {describe_waiting()}")
    devices = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    for name in devices:
        device = torch.device(name)
        label = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(f"{'device ' + name:<28} {label}")
        if device.type == "cpu":
            _report("  kernels in C++", _compiled_kernels)
        for implementation in IMPLEMENTATIONS:
            _report(f"  attention {implementation}", partial(_attention, implementation, device))
        _report("  rollout, cached = computed", partial(_cache, device))
        if device.type == "cuda":
            print(f"{'  CUDA graphs':<28} {graphs(device)}")


def graphs(device: torch.device) -> str:
    """Whether rollouts replay a CUDA graph by themselves."""
    from fastad.rollouts.gpu_proof import is_proven

    if is_proven(device):
        return "on: benchmarks/gpu_check.py has passed here"
    return "off until benchmarks/gpu_check.py has passed here; by name: rollout --cuda-graph always"


def _report(label: str, check: Callable[[], str]) -> None:
    try:
        outcome = f"ok, {check()}"
    except ValueError as error:  # the kernels' own reasons
        outcome = f"not here: {error}"
    except (RuntimeError, AssertionError) as error:
        outcome = f"FAILS: {str(error).splitlines()[0]}"
    print(f"{label:<28} {outcome}")


def _compiled_kernels() -> str:
    """The library, and for each operation what "auto" takes by which measurement."""
    import time

    from fastad_kernels import native

    reason = native.why_unavailable()
    if reason is not None:
        raise ValueError(reason)
    found = native.built()
    hours = (time.time() - found.path.stat().st_mtime) / 3600
    age = f"{hours / 24:.0f} days" if hours > 48 else f"{hours:.1f} hours"
    lines = [
        f"checked against the reference when they were compiled, {age} ago",
        f"in {found.path}",
        f"by {found.manifest.command}",
        "auto takes, by head dim or width (speed of C++ over PyTorch's):",
    ]
    choices: dict[str, list[str]] = {}
    for case, ratio in native.measured().items():
        operation, size = case.split()
        name, _ = native.prefer(operation, int(size))
        choices.setdefault(operation, []).append(f"{size} {name} ({ratio:.2f})")
    lines += [f"{operation}: {', '.join(cases)}" for operation, cases in choices.items()]
    return f"\n{'':<28} ".join(lines)


def _attention(implementation: str, device: torch.device) -> str:
    """Banded attention against the reference in float64."""
    import torch
    from fastad_kernels import attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 200, 4, 16, generator=generator) for _ in range(3))
    expected = attention(q.double(), k.double(), v.double(), window=50, impl="reference")
    # flash-attn computes in 16 bits alone.
    dtype, tolerance = (torch.float16, 1e-2) if implementation == "flash" else (q.dtype, 1e-4)
    q, k, v = (x.to(device, dtype) for x in (q, k, v))
    out = attention(q, k, v, window=50, impl=implementation)  # type: ignore[arg-type]
    error = (out.cpu().double() - expected).abs().max().item()
    assert error < tolerance, f"error {error:.1e} against the reference"
    return f"error {error:.1e} against the reference in float64"


def _cache(device: torch.device) -> str:
    """Cached against recomputed logits of a small model, through three windows."""
    import torch

    from fastad.envs.dark_room import DarkRoom
    from fastad.model.config import ModelConfig
    from fastad.model.sequence_model import SequenceModel
    from fastad.rollouts.engine import cache_error

    torch.manual_seed(0)
    generator = torch.Generator(device).manual_seed(0)
    goals = torch.tensor([[1, 2], [7, 3]], device=device)
    env = DarkRoom().make(goals, generator)
    config = ModelConfig(context=30, positions="rope")
    model = SequenceModel(config, env.observation_space, env.action_space, env.episode_length)
    error = cache_error(model.to(device), env, num_steps=100, generator=generator)
    assert error < 1e-4, f"logits differ by {error:.1e}"
    return f"logits differ by {error:.1e} of the largest"
