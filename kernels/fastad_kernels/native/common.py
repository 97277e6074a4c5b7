"""What the operators of the C++ kernels have in common."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def takes_rows(weights: Sequence[Tensor], rows: Sequence[Tensor]) -> bool:
    """Whether kernels of rows can do it: float32 on a CPU, nothing empty, no autocast.

    Nor forward derivatives, which they have none of: a result without would be a derivative of 0.

    Args:
        weights: Matrices and vectors whose sizes are the lengths of rows.
        rows: What they are applied or added to, (..., a row).
    """
    for y in (*weights, *rows):
        if y.dtype != torch.float32 or y.device.type != "cpu":
            return False
    if torch.autograd.forward_ad._current_level >= 0 or torch.is_autocast_enabled("cpu"):
        return False
    return all(w.numel() for w in weights)


def call(
    tensors: Sequence[Tensor | None],
    settings: Sequence[Any],
    *,
    forward: Any,
    function: Any,
    op: Any,
) -> Any:
    """Run a kernel by the shortest way that serves the caller.

    Args:
        tensors: The first arguments.
        settings: The others.
        forward: The kernel alone, for tensors of which no gradient is wanted.
        function: The kernel as a `torch.autograd.Function`.
        op: The kernel as an operator.
    """
    if not at_once(*tensors):
        return op(*tensors, *settings)
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return (function.apply if wanted else forward)(*tensors, *settings)


def as_function(forward: Any, setup_context: Any, backward: Any) -> type[torch.autograd.Function]:
    """A kernel with its gradient, without the operator; see `call`.

    Args:
        forward: Of all arguments.
        setup_context: Of the context, the arguments and the result.
        backward: Of the context and the result's gradients.
    """

    def run(ctx: Any, *inputs: Any) -> Any:
        # With a `setup_context` of its own, PyTorch looks at the signature in every call.
        output = forward(*inputs)
        setup_context(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(run), "backward": staticmethod(backward)}
    return type("Kernel", (torch.autograd.Function,), methods)


def at_once(*tensors: Tensor | None) -> bool:
    """Whether the kernels can be called right away, with autograd alone around them.

    An operator of PyTorch's takes tens of microseconds to find its function. Only those who look
    for operators need it: the compiler, `torch.func`, tensors that stand for others, and modes
    that see every operation.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch._C._len_torch_dispatch_stack() > 0:
        return False
    for x in tensors:  # noqa: SIM110, a generator takes twice the time
        if x is not None and type(x) not in PLAIN_TYPES:
            return False
    return True


def refuse_second_backward(ctx: Any, *gradients: Tensor) -> None:
    """Kernels give first derivatives only."""
    raise NotImplementedError(
        "impl='native' gives first derivatives only; second ones (create_graph=True, gradient "
        "penalties, Hessians) need impl='reference'"
    )
