"""Refuse the operations at which a GPU's queue would have to run empty.

A GPU is kept busy by queueing work ahead of it. An operation whose result Python needs to go on
(`x.item()`, `if mask.any()`, `x[mask]`, whose shape depends on the values) stops the host until the
queue is empty, and cannot be captured in a CUDA graph at all. On a CPU such operations cost
nothing, so nobody notices them in tests. `forbid_host_sync` makes them raise on any device:

    with forbid_host_sync():
        out = decode_attention(q, k, v, cache, window=96)

| refused | because |
|---|---|
| `item`, `bool`, `int`, `float`, `tolist`, `numpy`, `cpu` of a tensor | values go to the host |
| `equal`, `allclose`, `linalg.inv` and others that check values | a truth value goes to the host |
| `nonzero`, `masked_select`, `unique`, `bincount`, one-argument `where` | values give the shape |
| `repeat_interleave` with a tensor and no `output_size` | likewise |
| `x[mask]`, `x[mask] = ...` | likewise; `torch.where` and `masked_fill_` do without |
| `torch.tensor`, `as_tensor`, `from_numpy`, `x[[0, 2]]` | pageable memory is uploaded |
| copies between host and device | they wait, but for non-blocking ones from pinned memory |

Numbers as arguments are free: use `torch.full`, `x.fill_`, `x + 1`. Operators registered by
`torch.library.custom_op` are looked into. On a machine with CUDA, PyTorch's own check
(`torch.cuda.set_sync_debug_mode`) is switched on as well; it sees what happens inside other
libraries. What a CPU-only branch does (`if x.device.type == "cpu"`) is refused too.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode


class HostSyncError(RuntimeError):
    """An operation for which the host would wait for the device."""


@contextlib.contextmanager
def forbid_host_sync() -> Iterator[None]:
    """Within, operations that synchronise host and device raise.

    Methods of `torch.Tensor` are replaced for the time, in all threads.

    Raises:
        HostSyncError: At the first such operation, which is not carried out.
    """
    with contextlib.ExitStack() as stack:
        for owner, name, is_allowed in _PATCHED:
            original = getattr(owner, name)
            setattr(owner, name, _refusing(name, original, is_allowed))
            stack.callback(setattr, owner, name, original)
        if torch.cuda.is_available():
            stack.callback(torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode())
            torch.cuda.set_sync_debug_mode("error")
        stack.enter_context(_RefuseSyncs())
        yield


class _RefuseSyncs(TorchDispatchMode):
    """Sees every operation below autograd, with its arguments."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if reason := _reason(func, name, args, kwargs):
            _refuse(name, reason)
        custom = OPDEFS.get(func._schema.name)
        if custom is not None:
            # The dispatcher would run the body with this mode switched off.
            with self:
                return custom._init_fn(*args, **kwargs)
        return func(*args, **kwargs)


def _reason(func: Any, name: str, args: tuple, kwargs: dict) -> str | None:
    """Why an operation synchronises; None if it does not."""
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
        return "a mask as index is turned into positions" if masks else None
    if name == "repeat_interleave":
        given = kwargs.get("output_size", args[1] if len(args) > 1 else None)
        return "output_size is not given" if given is None else None
    if name in ("copy_", "_to_copy", "_copy_from"):
        return _transfer(name, args, kwargs)
    if name == "lift_fresh":
        # A number that is assigned, x[0] = 1.0, has no dimension and is filled in on the device.
        return "a list is uploaded" if args[0].ndim else None
    if name == "_linalg_check_errors":
        return "errors are checked on the host"
    if torch.Tag.data_dependent_output in func.tags:
        return "the result is a value on the host"
    if torch.Tag.dynamic_output_shape in func.tags:
        return "values decide the shape of the result"
    return None


def _transfer(name: str, args: tuple, kwargs: dict) -> str | None:
    if name == "copy_":
        source, destination = args[1], args[0].device
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
    else:
        source, non_blocking = args[0], kwargs.get("non_blocking", False)
        destination = torch.device(kwargs.get("device") or source.device)
    if source.device.type == destination.type:
        return None
    if destination.type == "cpu":
        return "values go to the host"
    if source.device.type == "cpu" and not (non_blocking and source.is_pinned()):
        return "memory that is not pinned is uploaded"
    return None


def _refuse(name: str, reason: str) -> NoReturn:
    raise HostSyncError(f"{name} makes the host wait for the device: {reason}")


def _refusing(name: str, original: Callable, is_allowed: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_allowed(*args, **kwargs):
            _refuse(name, "values cross between host and device")
        return original(*args, **kwargs)

    return call


def _never(*args: Any, **kwargs: Any) -> bool:
    return False


def _is_tensor(data: Any, *args: Any, **kwargs: Any) -> bool:
    return isinstance(data, Tensor)


# On a CPU none of these is an operation of PyTorch's dispatcher.
_PATCHED: tuple[tuple[Any, str, Callable], ...] = (
    (Tensor, "tolist", _never),
    (Tensor, "numpy", _never),
    (Tensor, "__array__", _never),
    (Tensor, "cpu", _never),
    (Tensor, "new_tensor", _never),
    (torch, "tensor", _never),
    (torch, "as_tensor", _is_tensor),
    (torch, "from_numpy", _never),
    (torch.cuda, "synchronize", _never),
)
