"""What "auto" takes on a CPU, operation by operation: measured once and kept, or imposed."""

import dataclasses
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch

from fastad_kernels.dispatch import OPERATIONS
from fastad_kernels.native import build, store, trial
from fastad_kernels.native.compiler import NativeUnavailableError

# A tie goes to the C++ kernels, which need less memory: what is below this is no tie.
TIE = 0.98

_LOGGER = logging.getLogger(__name__)
_imposed: dict[str, str] = {}


def prefer(operation: str, size: int) -> tuple[str, str]:
    """The implementation for an operation, "native" or "sdpa" (PyTorch's own), and why.

    What was measured at the nearest size counts, by its logarithm.

    Args:
        operation: One of `OPERATIONS`.
        size: Head dim of attention and decoding, features of a linear map's or MLP's input.
    """
    for row in _current_rows():
        if row.operation == operation and size <= row.largest:
            return row.name, row.reason
    raise AssertionError(f"no choice for {operation}")


class _Row(NamedTuple):
    """A choice for an operation up to a size, behind those for smaller ones."""

    operation: str
    largest: int
    name: str
    reason: str


# Without arguments: PyTorch traces through the callers, with sizes that it does not yet know.
@torch.compiler.assume_constant_result
def _current_rows() -> tuple[_Row, ...]:
    return _rows(tuple(_imposed.items()))


@cache
def _rows(imposed: tuple[tuple[str, str], ...]) -> tuple[_Row, ...]:
    fixed = [_Row(name, sys.maxsize, choice, "as chosen before") for name, choice in imposed]
    free = [operation for operation in OPERATIONS if operation not in dict(imposed)]
    return (*fixed, *(row for operation in free for row in _measured_rows(operation)))


def _measured_rows(operation: str) -> Iterator[_Row]:
    ratios, unmeasured = _ratios()
    sizes = sorted(int(case.split()[1]) for case in ratios if case.split()[0] == operation)
    if not sizes:
        yield _Row(operation, sys.maxsize, "native", f"C++ compiled for this CPU, {unmeasured}")
    borders = [math.isqrt(size * larger) for size, larger in pairwise(sizes)]
    for size, border in zip(sizes, [*borders, sys.maxsize], strict=False):
        ratio = ratios[f"{operation} {size}"]
        yield _Row(
            operation,
            border,
            "native" if ratio >= TIE else "sdpa",
            f"the C++ kernels have {ratio:.2f} times PyTorch's speed here",
        )


def impose(choices: Mapping[str, str]) -> None:
    """Take the given implementations from now on, in this process, where "auto" is asked.

    Conditions that the kernels have (float32, no dropout, ...) stay conditions.

    Args:
        choices: "native" or "sdpa" by operation; operations that are missing are measured, and
            whatever else is there is left alone. {} undoes it.

    Raises:
        ValueError: If a choice cannot be taken here; nothing has changed then.
    """
    chosen: dict[str, str] = {name: choices[name] for name in OPERATIONS if name in choices}
    for operation, name in chosen.items():
        if name not in ("native", "sdpa"):
            raise ValueError(f"{operation}={name!r} must be native or sdpa on a CPU")
        reason = build.why_unavailable() if name == "native" else None
        if reason is not None:
            raise ValueError(f"{operation}=native cannot be used here: {reason}")
    _imposed.clear()
    _imposed.update(chosen)


def measured() -> dict[str, float]:
    """How many times as fast as PyTorch's operations the kernels are here, by case; {} unknown."""
    return _ratios()[0]


@cache
def _ratios() -> tuple[dict[str, float], str]:
    """By case, from the manifest or measured now; and without any, why."""
    found = build.built()
    capability = torch.backends.cpu.get_cpu_capability()
    where = f"torch {torch.__version__} {capability}, {torch.get_num_threads()} threads"
    if where in found.manifest.ratios:
        return found.manifest.ratios[where], ""
    try:
        return _measure(found, where), ""
    except NativeUnavailableError as error:
        return {}, f"not measured: {error}"
    except OSError as error:
        # A cache that is read alone holds what others measured, perhaps with other threads.
        return next(reversed(found.manifest.ratios.values()), {}), f"not measured: {error}"


def _measure(found: build.Built, where: str) -> dict[str, float]:
    """Measure, and add it to the manifest, unless another process has just done so."""
    path = found.manifest_path
    with store.lock(path.with_suffix(".lock")):
        manifest = store.read_manifest(path) or found.manifest
        if where not in manifest.ratios:
            _LOGGER.info("measuring the C++ kernels beside PyTorch, once; this takes about 5 s")
            ratios = manifest.ratios | {where: trial.measure(found.path)}
            manifest = dataclasses.replace(manifest, ratios=ratios)
            store.write_manifest(path, manifest)
        return manifest.ratios[where]
