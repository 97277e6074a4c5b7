"""What the parts share: the machine, the clock, the criterion of exactness, and timing."""

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from fastad_kernels.testing.compile import KERNEL_ERRORS
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
NO_GPU = "not measured: no GPU"


class Clock:
    """Seconds since the start, of a limit that is shared out among the sections."""

    def __init__(self, limit: float) -> None:
        self.began, self.limit = time.monotonic(), limit

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def is_past(self, share: float) -> bool:
        """Whether this share of the limit is used up."""
        return self.seconds > share * self.limit


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        group: "forward", "backward", "decode", ...; times of a group count only if it passed.
        head_dim: D.
        name: Of the case.
        error: Largest absolute error against float64; None where bits are compared.
        allowed: Largest that is allowed.
        problem: Why it failed; None if it passed.
    """

    group: str
    head_dim: int
    name: str
    error: float | None = None
    allowed: float | None = None
    problem: str | None = None


def compare(
    group: str, head_dim: int, name: str, actual: Tensor, plains: list[Tensor], exact: Tensor
) -> Check:
    """Hold an error to twice that of plain PyTorch, or to one rounding step of the largest result.

    Args:
        group: As in `Check`, like the two that follow.
        head_dim: As there.
        name: As there.
        actual: What the kernel gave.
        plains: The reference at the kernel's precision, computed in different orders.
        exact: The reference in float64.
    """
    if not actual.isfinite().all():
        return Check(group, head_dim, name, problem="not finite")
    error, *plain_errors = (
        (x.double() - exact.double()).abs().max().item() for x in (actual, *plains)
    )
    step = torch.finfo(actual.dtype).eps * exact.abs().max().item()
    allowed = max(2 * max(plain_errors), step)
    problem = None if error <= allowed else f"error {error:.2e} exceeds {allowed:.2e}"
    return Check(group, head_dim, name, error, allowed, problem)


def check_equal(group: str, head_dim: int, name: str, actual: Tensor, expected: Tensor) -> Check:
    """Hold a tensor to another, bit for bit."""
    if torch.equal(actual, expected):
        return Check(group, head_dim, name)
    share = (actual != expected).double().mean().item()
    return Check(group, head_dim, name, problem=f"{100 * share:.3g} % of the elements differ")


def guarded(group: str, head_dim: int, name: str, run: Callable[[], list[Check]]) -> list[Check]:
    """Run a case; what a kernel raises is a failed check, so that none hides the others."""
    try:
        return run()
    except KERNEL_ERRORS as error:
        message = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        return [Check(group, head_dim, name, problem=message)]


def milliseconds(call: Callable[[], object]) -> dict[str, float]:
    """Median time of a call on the GPU with its 20 and 80 % quantiles, the cache cold each time."""
    from triton.testing import do_bench

    low, median, high = do_bench(call, warmup=10, rep=60, quantiles=[0.2, 0.5, 0.8])
    return {"ms": median, "ms_20": low, "ms_80": high}


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(DEVICE)


def describe_machine() -> dict[str, object]:
    """The device, versions, and the commit of this checkout."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "flash-attn", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device: dict[str, object] = {"name": platform.processor() or platform.machine()}
    if HAS_GPU:
        properties = torch.cuda.get_device_properties(0)
        device = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda or torch.version.hip,
        }
    return {"device": device, "versions": versions, "commit": _commit()}


def _commit() -> str:
    root = Path(__file__).parents[2]
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
