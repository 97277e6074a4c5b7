"""The residual MLP of a block by the C++ kernels, as PyTorch operators with a gradient."""

import ctypes
from ctypes import c_double, c_int64
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.common import at_once, call, refuse_second_backward

# What GELU is applied to is kept for the backward pass where it takes no more than this: it lies in
# a cache then, and reading it is quicker than computing it again.
MAX_KEPT_BYTES = 2**24


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("num_tokens", "width", "hidden", "hidden_row")),
        ("epsilon", c_double),
    ]


def residual_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    epsilon: float,
) -> Tensor:
    """As `fastad_kernels.reference.residual_mlp`, with the same arguments.

    The bits of a row of the result depend on no other row, nor on their number.
    """
    inputs = (x, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias)
    out: Tensor = call(inputs, (epsilon,), forward=_forward, function=_ResidualMlp, op=mlp_op)
    return out


def _forward(*inputs: Any) -> Tensor:
    x, *weights, epsilon = inputs
    return _run(x, weights, _shape(x, weights[2], epsilon), None)


def _run(x: Tensor, weights: list[Tensor], shape: _Shape, kept: Tensor | None) -> Tensor:
    x = x.contiguous()
    out = x.new_empty(x.shape)
    weights = [w.contiguous() for w in weights]  # by name: they must outlive the call
    library().fastad_mlp_forward(
        ctypes.byref(shape), addresses(weights), x.data_ptr(), out.data_ptr(), _pointer(kept),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def _gradients(grad_out: Tensor, *inputs: Any, kept: Tensor | None = None) -> list[Tensor]:
    x, *weights, epsilon = inputs
    x, grad_out = x.contiguous(), grad_out.contiguous()
    dx, *sums = (y.new_empty(y.shape) for y in (x, *weights))
    shape = _shape(x, weights[2], epsilon)
    weights = [w.contiguous() for w in weights]
    kept = None if kept is None else kept.contiguous()
    library().fastad_mlp_backward(
        ctypes.byref(shape), addresses(weights), x.data_ptr(), grad_out.data_ptr(),
        _pointer(kept), dx.data_ptr(), addresses(sums), torch.get_num_threads(),
    )  # fmt: skip
    return [dx, *sums]


def _shape(x: Tensor, in_weight: Tensor, epsilon: float) -> _Shape:
    hidden, width = in_weight.shape
    # Whole vectors, and rows begin at other places of the first cache.
    row = -(-hidden // 32) * 32 + 16
    return _Shape(x.numel() // width, width, hidden, row, epsilon)


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


@torch.library.custom_op("fastad::native_mlp", mutates_args=())
def mlp_op(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    epsilon: float,
) -> Tensor:
    """See `residual_mlp`. Differentiable once."""
    return _forward(x, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias, epsilon)


@torch.library.custom_op("fastad::native_mlp_backward", mutates_args=())
def mlp_backward_op(
    grad_out: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    epsilon: float,
) -> list[Tensor]:
    """Gradients of x and of the weights, in the order of the arguments."""
    inputs = (x, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias, epsilon)
    return _gradients(grad_out, *inputs)


@mlp_op.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


@mlp_backward_op.register_fake
def _(grad_out: Tensor, *inputs: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:-1]]


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.epsilon = inputs
    ctx.save_for_backward(*tensors, None)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    *saved, kept = ctx.saved_tensors
    tensors = (grad_out, *saved)
    # The operator refuses a second derivative.
    if at_once(*tensors) and not torch.is_grad_enabled():
        return *_gradients(*tensors, ctx.epsilon, kept=kept), None
    return *mlp_backward_op(*tensors, ctx.epsilon), None


mlp_op.register_autograd(_backward, setup_context=_setup_context)
mlp_backward_op.register_autograd(refuse_second_backward)


class _ResidualMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, *weights, epsilon = inputs
        shape = _shape(x, weights[2], epsilon)
        kept = None
        if shape.num_tokens * shape.hidden_row * x.element_size() <= MAX_KEPT_BYTES:
            kept = x.new_empty(shape.num_tokens, shape.hidden_row)
        out = _run(x, weights, shape, kept)
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, *weights, kept)
        return out

    backward = staticmethod(_backward)
