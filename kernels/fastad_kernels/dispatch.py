"""Which module does the work: named by the caller, or chosen and logged once.

`torch.compile` traces through here, hence no caches and import statements instead of importlib.
"""

import logging
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

Implementation = Literal["auto", "triton", "sdpa", "flash", "reference"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)

# Known here as well as to the kernels, because whoever asks may not have Triton.
TRITON_HEAD_DIMS = (16, 32, 64, 128)
TRITON_IS_INSTALLED = find_spec("triton") is not None

_LOGGER = logging.getLogger(__name__)


def find_implementation(impl: str, q: Tensor) -> ModuleType:
    """The module that implements `impl` for queries like `q`.

    "auto" takes Triton's kernels on a GPU where Triton is installed and the head dim is one of
    theirs, PyTorch's fused attention everywhere else, and logs each choice once (but not while
    `torch.compile` traces). A named implementation never falls back. Modules are imported when
    first asked for: Triton and flash-attn need not be installed.

    Raises:
        ValueError: If `impl` is unknown or cannot work here; the message says why.
    """
    if impl == "auto":
        impl, reason = choose(q.device.type, q.shape[-1])
        if not torch.compiler.is_compiling():
            _log_choice(q.device.type, q.shape[-1], impl, reason)
    if impl == "triton":
        return _import_triton(q)
    if impl == "sdpa":
        from fastad_kernels import sdpa

        return sdpa
    if impl == "flash":
        from fastad_kernels import flash

        return flash
    if impl == "reference":
        from fastad_kernels import reference

        return reference
    raise ValueError(f"impl={impl!r} must be one of {', '.join(IMPLEMENTATIONS)}")


def choose(device_type: str, head_dim: int) -> tuple[str, str]:
    """What "auto" means: the implementation's name, and why."""
    if device_type != "cuda":
        return "sdpa", "PyTorch's fused kernels, banded by blocks"
    if not TRITON_IS_INSTALLED:
        return "sdpa", "Triton is not installed"
    if head_dim not in TRITON_HEAD_DIMS:
        return "sdpa", f"Triton's kernels take head dims {_listed(TRITON_HEAD_DIMS)}"
    return "triton", "compiled for this GPU"


@cache
def _log_choice(device_type: str, head_dim: int, name: str, reason: str) -> None:
    _LOGGER.info("attention on %s with head dim %d: %s (%s)", device_type, head_dim, name, reason)


def _import_triton(q: Tensor) -> ModuleType:
    head_dim = q.shape[-1]
    if head_dim not in TRITON_HEAD_DIMS:
        raise ValueError(
            f"q has head dim {head_dim}; impl='triton' takes {_listed(TRITON_HEAD_DIMS)}"
        )
    if not TRITON_IS_INSTALLED:
        raise ValueError("impl='triton' needs the package triton, which is not installed")
    from fastad_kernels import triton as kernels

    if q.device.type == "cpu" and not kernels.INTERPRETED:
        raise ValueError(
            "q is on the CPU; impl='triton' runs there in Triton's interpreter only, "
            "with TRITON_INTERPRET=1 set before the kernels are first used"
        )
    return kernels


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
