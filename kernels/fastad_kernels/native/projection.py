"""Linear maps with the norm before or the residual after them, by the C++ kernels."""

import ctypes
from ctypes import c_double, c_int64
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.native.build import addresses, library
from fastad_kernels.native.common import refuse_second_backward

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
    """As `fastad_kernels.reference.projection`, with the same arguments."""
    norm_weight, norm_bias = norm or (None, None)
    out: Tensor = projection_op(x, weight, bias, norm_weight, norm_bias, residual, epsilon)
    return out


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
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    out = torch.empty((*x.shape[:-1], len(bias)), dtype=x.dtype, device=x.device)
    shape, weights = _shape(x, weight, epsilon), (norm_weight, norm_bias, weight, bias)
    packed = [None if w is None else w.contiguous() for w in weights]
    library().fastad_projection_forward(
        ctypes.byref(shape), addresses(packed), x.data_ptr(),
        None if residual is None else residual.data_ptr(), out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


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
    x, grad_out = x.contiguous(), grad_out.contiguous()
    dx, threads = torch.empty_like(x), torch.get_num_threads()
    weights = [w for w in (norm_weight, norm_bias, weight, bias) if w is not None]
    packed: list[Tensor | None] = [w.contiguous() for w in weights]
    missing: list[Tensor | None] = [None] * (4 - len(weights))
    sums = [w.new_zeros((threads, *w.shape)) for w in weights]
    shape = _shape(x, weight, epsilon)
    library().fastad_projection_backward(
        ctypes.byref(shape), addresses([*missing, *packed]), x.data_ptr(), grad_out.data_ptr(),
        dx.data_ptr(),
        addresses([y for thread in range(threads) for y in (*missing, *(s[thread] for s in sums))]),
        threads,
    )  # fmt: skip
    *norms, dweight, dbias = (s.sum(0) for s in sums)
    return [dx, dweight, dbias, *norms]


def _shape(x: Tensor, weight: Tensor, epsilon: float) -> _Shape:
    out, size = weight.shape
    return _Shape(x.numel() // size, size, out, epsilon)


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
    dx, dweight, dbias, *norms = projection_backward_op(grad_out, *ctx.saved_tensors, ctx.epsilon)
    norm_gradients = norms if norms else (None, None)
    return dx, dweight, dbias, *norm_gradients, grad_out if ctx.has_residual else None, None


projection_op.register_autograd(_backward, setup_context=_setup_context)
projection_backward_op.register_autograd(refuse_second_backward)
