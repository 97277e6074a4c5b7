"""Linear maps with the norm before or the residual after them, by the C++ kernels."""

import ctypes
from ctypes import c_double, c_int64
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.common import as_function, at_once, call, refuse_second_backward

Norm = tuple[Tensor, Tensor]


class _Shape(ctypes.Structure):
    _fields_ = [*((name, c_int64) for name in ("num_tokens", "in", "out")), ("epsilon", c_double)]


def projection(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: Norm | None,
    residual: Tensor | None,
    epsilon: float,
) -> Tensor:
    """As `fastad_kernels.reference.projection`, with the same arguments.

    The bits of a row of the result depend on no other row, nor on their number.
    """
    norm_weight, norm_bias = norm or (None, None)
    inputs = (x, weight, bias, norm_weight, norm_bias, residual)
    out: Tensor = call(inputs, (epsilon,), forward=_forward, function=_Projection, op=projection_op)
    return out


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
    epsilon: float,
) -> Tensor:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    out = x.new_empty((*x.shape[:-1], len(bias)))
    shape, weights = _shape(x, weight, epsilon), (norm_weight, norm_bias, weight, bias)
    packed = [None if w is None else w.contiguous() for w in weights]
    library().fastad_projection_forward(
        ctypes.byref(shape), addresses(packed), x.data_ptr(),
        None if residual is None else residual.data_ptr(), out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def _gradients(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    epsilon: float,
) -> list[Tensor]:
    x, grad_out = x.contiguous(), grad_out.contiguous()
    given = (norm_weight, norm_bias, weight, bias)
    packed = [None if w is None else w.contiguous() for w in given]
    dx, *sums = (None if y is None else y.new_empty(y.shape) for y in (x, *given))
    assert dx is not None
    shape = _shape(x, weight, epsilon)
    library().fastad_projection_backward(
        ctypes.byref(shape), addresses(packed), x.data_ptr(), grad_out.data_ptr(), dx.data_ptr(),
        addresses(sums), torch.get_num_threads(),
    )  # fmt: skip
    return [y for y in (dx, *sums[2:], *sums[:2]) if y is not None]


def _shape(x: Tensor, weight: Tensor, epsilon: float) -> _Shape:
    out, size = weight.shape
    return _Shape(x.numel() // size, size, out, epsilon)


@torch.library.custom_op("fastad::native_projection", mutates_args=())
def projection_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
    epsilon: float,
) -> Tensor:
    """See `projection`. Differentiable once."""
    return _forward(x, weight, bias, norm_weight, norm_bias, residual, epsilon)


@torch.library.custom_op("fastad::native_projection_backward", mutates_args=())
def projection_backward_op(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    epsilon: float,
) -> list[Tensor]:
    """Gradients of x, weight and bias, and of the norm's if there is one."""
    return _gradients(grad_out, x, weight, bias, norm_weight, norm_bias, epsilon)


@projection_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], bias.shape[0]))


@projection_backward_op.register_fake
def _(grad_out: Tensor, *inputs: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:-1] if x is not None]


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, residual, ctx.epsilon = inputs
    ctx.has_residual = residual is not None
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    tensors = (grad_out, *ctx.saved_tensors)
    # The operator refuses a second derivative.
    direct = at_once(*tensors) and not torch.is_grad_enabled()
    gradients: Any = _gradients if direct else projection_backward_op
    dx, dweight, dbias, *norms = gradients(*tensors, ctx.epsilon)
    norm_gradients = norms if norms else (None, None)
    return dx, dweight, dbias, *norm_gradients, grad_out if ctx.has_residual else None, None


projection_op.register_autograd(_backward, setup_context=_setup_context)
projection_backward_op.register_autograd(refuse_second_backward)

_Projection = as_function(_forward, _setup_context, _backward)
