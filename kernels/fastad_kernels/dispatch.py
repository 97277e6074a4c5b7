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

from fastad_kernels.cache import RingCache

Implementation = Literal["auto", "triton", "native", "sdpa", "flash", "reference"]
Operation = Literal["attention", "decode", "projection", "mlp", "embedding"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

# Known here as well as to the kernels, because whoever asks may not have Triton.
TRITON_HEAD_DIMS = (16, 32, 64, 128)
TRITON_IS_INSTALLED = find_spec("triton") is not None

_LOGGER = logging.getLogger(__name__)


def find_implementation(
    impl: str, q: Tensor, *, dropout: float = 0.0, ring: RingCache | None = None
) -> ModuleType:
    """The module that implements `impl` for queries like `q`.

    "auto" takes Triton's kernels on a GPU where Triton is installed and the head dim is one of
    theirs; on a CPU for float32 without dropout our C++ kernels, where a compiler is installed and
    they were measured to be no slower (`native.choices`); PyTorch's fused attention everywhere
    else. It logs each choice once (but not while `torch.compile` traces). A named implementation
    never falls back. Modules are imported when first asked for: Triton and flash-attn need not be
    installed.

    Args:
        impl: One of `IMPLEMENTATIONS`.
        q: Queries; their device, dtype and head dim count.
        dropout: Of the attention weights.
        ring: What will be decoded from, if anything.

    Raises:
        ValueError: If `impl` is unknown or cannot work here; the message says why.
    """
    impl = resolve(impl, q, dropout=dropout, ring=ring)
    if impl == "triton":
        return _import_triton(q)
    if impl == "native":
        return _import_native(q)
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


def resolve(
    impl: str,
    x: Tensor,
    *,
    operation: Operation = "attention",
    dropout: float = 0.0,
    ring: RingCache | None = None,
) -> str:
    """The name of an implementation, where it is "auto" the chosen one's, which is logged once."""
    if impl == "auto":
        operation = operation if ring is None else "decode"
        impl, reason = choose(x, operation=operation, dropout=dropout, ring=ring)
        if not torch.compiler.is_compiling():
            _log_choice(operation, x.device.type, x.shape[-1], impl, reason)
    return impl


def choose(
    x: Tensor,
    *,
    operation: Operation = "attention",
    dropout: float = 0.0,
    ring: RingCache | None = None,
) -> tuple[str, str]:
    """What "auto" means: the implementation's name, and why.

    Args:
        x: Queries (..., D), the input (..., width) of a linear map or MLP, or a table (rows,
            width); their device, dtype and last dimension count.
        operation: What is done with them.
        dropout: Of the attention weights.
        ring: What will be decoded from, if anything.
    """
    head_dim = x.shape[-1]
    if x.device.type == "cuda":
        if not TRITON_IS_INSTALLED:
            return "sdpa", "Triton is not installed"
        if head_dim not in TRITON_HEAD_DIMS:
            return "sdpa", f"Triton's kernels take head dims {_listed(TRITON_HEAD_DIMS)}"
        return "triton", "compiled for this GPU"
    if x.device.type != "cpu":
        return "sdpa", f"we have no kernels for {x.device.type}"
    from fastad_kernels import native

    if x.dtype != torch.float32:
        return "sdpa", "the C++ kernels compute in float32"
    if dropout > 0.0:
        return "sdpa", "the C++ kernels have no dropout"
    reason = native.why_unavailable()
    if reason is not None:
        return "sdpa", reason
    if ring is not None and not native.reads(ring):
        return "sdpa", "the ring does not lie in memory as the C++ kernels read it"
    if ring is not None and torch.is_grad_enabled() and x.requires_grad:
        return "sdpa", "the C++ kernels compute no gradient in decoding"
    return native.prefer(operation, head_dim)


@cache
def _log_choice(operation: str, device_type: str, size: int, name: str, reason: str) -> None:
    unit = "head dim" if operation in ("attention", "decode") else "width"
    _LOGGER.info("%s on %s with %s %d: %s (%s)", operation, device_type, unit, size, name, reason)


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


def _import_native(q: Tensor) -> ModuleType:
    from fastad_kernels import native

    if q.device.type != "cpu" or q.dtype != torch.float32:
        raise ValueError(f"q is {q.dtype} on {q.device}; impl='native' computes in float32 on CPUs")
    reason = native.why_unavailable()
    if reason is not None:
        raise ValueError(f"impl='native' cannot be used here: {reason}")
    return native


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
