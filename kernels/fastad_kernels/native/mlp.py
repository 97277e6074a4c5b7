"""The residual MLP of a block by the C++ kernels, as PyTorch operators with a gradient."""

import ctypes
from ctypes import c_double, c_int64
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.common import refuse_second_backward


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("num_tokens", "width", "hidden")),
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
    """As `fastad_kernels.reference.residual_mlp`, with the same arguments."""
    out: Tensor = mlp_op(
        x, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias, epsilon
    )
    return out


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
    x = x.contiguous()
    out = torch.empty_like(x)
    shape = _shape(x, in_weight, epsilon)
    weights = [norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias]
    weights = [w.contiguous() for w in weights]
    library().fastad_mlp_forward(
        ctypes.byref(shape), addresses(weights), x.data_ptr(), out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


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
    x, grad_out = x.contiguous(), grad_out.contiguous()
    dx = torch.empty_like(x)
    threads = torch.get_num_threads()
    weights = [norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias]
    sums = [w.new_zeros((threads, *w.shape)) for w in weights]
    weights = [w.contiguous() for w in weights]
    shape = _shape(x, in_weight, epsilon)
    library().fastad_mlp_backward(
        ctypes.byref(shape), addresses(weights), x.data_ptr(), grad_out.data_ptr(),
        dx.data_ptr(), addresses([s[thread] for thread in range(threads) for s in sums]), threads,
    )  # fmt: skip
    return [dx, *(s.sum(0) for s in sums)]


def _shape(x: Tensor, in_weight: Tensor, epsilon: float) -> _Shape:
    hidden, width = in_weight.shape
    return _Shape(num_tokens=x.numel() // width, width=width, hidden=hidden, epsilon=epsilon)


@mlp_op.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


@mlp_backward_op.register_fake
def _(grad_out: Tensor, *inputs: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:-1]]


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.epsilon = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return *mlp_backward_op(grad_out, *ctx.saved_tensors, ctx.epsilon), None


mlp_op.register_autograd(_backward, setup_context=_setup_context)
mlp_backward_op.register_autograd(refuse_second_backward)
