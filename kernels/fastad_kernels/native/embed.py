"""Sums of rows of tables, and the tables' gradient, by the C++ kernels."""

import ctypes
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.native.build import library
from fastad_kernels.native.common import as_function, at_once, call, refuse_second_backward


class _Shape(ctypes.Structure):
    _fields_ = [(name, c_int64) for name in ("num_terms", "num_tokens", "width")]


class _Term(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("table", "gradient", "index", "factor")),
        *((name, c_int64) for name in ("num_rows", "count")),
    ]


def embed(
    tables: Sequence[Tensor], indices: Sequence[Tensor], factors: Sequence[Tensor | None]
) -> Tensor:
    """As `fastad_kernels.reference.embed`, with the same arguments; factors get no gradient."""
    given = [tables[0].new_empty(0) if x is None else x for x in factors]
    tensors = (*tables, *indices, *given)
    if at_once(*tensors):
        out: Tensor = call(tensors, (), forward=_forward, function=_Embed, op=None)
        return out
    summed: Tensor = embed_op(list(tables), list(indices), given)
    return summed


def _forward(*tensors: Tensor) -> Tensor:
    tables, indices, factors = _by_kind(tensors)
    out = tables[0].new_empty((*indices[0].shape[:-1], tables[0].shape[1]))
    terms, kept = _terms(tables, [None] * len(tables), indices, factors)
    bad = c_int64()
    library().fastad_embed_forward(
        ctypes.byref(_shape(indices, out)), terms, out.data_ptr(), ctypes.byref(bad),
        torch.get_num_threads(),
    )  # fmt: skip
    del kept
    if bad.value >= 0:
        index, rows = indices[bad.value], tables[bad.value].shape[0]
        raise IndexError(
            f"indices[{bad.value}] has {int(index.min())} to {int(index.max())}; its table has "
            f"rows 0 to {rows - 1}"
        )
    return out


def _gradients(
    grad_out: Tensor, sizes: Sequence[int], indices: Sequence[Tensor], factors: Sequence[Tensor]
) -> list[Tensor]:
    grad_out = grad_out.contiguous()
    gradients = [grad_out.new_empty(rows, grad_out.shape[-1]) for rows in sizes]
    terms, kept = _terms(gradients, gradients, indices, factors)
    library().fastad_embed_backward(
        ctypes.byref(_shape(indices, grad_out)), terms, grad_out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    del kept
    return gradients


def _shape(indices: Sequence[Tensor], tokens: Tensor) -> _Shape:
    return _Shape(len(indices), indices[0].shape[:-1].numel(), tokens.shape[-1])


def _terms(
    tables: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    indices: Sequence[Tensor],
    factors: Sequence[Tensor],
) -> tuple[ctypes.Array[_Term], list[Tensor]]:
    """What the kernels read, and the tensors that must outlive the call."""
    kept: list[Tensor] = []

    def pointer(x: Tensor | None) -> int | None:
        if x is None or x.numel() == 0:
            return None
        kept.append(x.contiguous())
        return kept[-1].data_ptr()

    terms = (_Term * len(tables))(
        *(
            _Term(*map(pointer, of_one), of_one[0].shape[0], of_one[2].shape[-1])
            for of_one in zip(tables, gradients, indices, factors, strict=True)
        )
    )
    return terms, kept


def _by_kind(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    """Tables, indices and factors, as many of each."""
    third = len(tensors) // 3
    return tensors[:third], tensors[third : 2 * third], tensors[2 * third :]


@torch.library.custom_op("fastad::native_embed", mutates_args=())
def embed_op(
    tables: Sequence[Tensor], indices: Sequence[Tensor], factors: Sequence[Tensor]
) -> Tensor:
    """See `embed`, but for factors, empty where there are none. Differentiable once."""
    return _forward(*tables, *indices, *factors)


@torch.library.custom_op("fastad::native_embed_backward", mutates_args=())
def embed_backward_op(
    grad_out: Tensor, sizes: Sequence[int], indices: Sequence[Tensor], factors: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of the tables, which have so many rows."""
    return _gradients(grad_out, sizes, indices, factors)


@embed_op.register_fake
def _(tables: Sequence[Tensor], indices: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    return tables[0].new_empty((*indices[0].shape[:-1], tables[0].shape[1]))


@embed_backward_op.register_fake
def _(
    grad_out: Tensor, sizes: Sequence[int], indices: Sequence[Tensor], factors: Sequence[Tensor]
) -> list[Tensor]:
    return [grad_out.new_empty(rows, grad_out.shape[-1]) for rows in sizes]


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _keep(ctx, *_by_kind(inputs))


def _setup_op_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _keep(ctx, *inputs)


def _keep(
    ctx: Any, tables: Sequence[Tensor], indices: Sequence[Tensor], factors: Sequence[Tensor]
) -> None:
    ctx.sizes = [table.shape[0] for table in tables]
    ctx.save_for_backward(*indices, *factors)


def _table_gradients(ctx: Any, grad_out: Tensor) -> list[Tensor]:
    saved, number = ctx.saved_tensors, len(ctx.sizes)
    # The operator refuses a second derivative.
    direct = at_once(grad_out, *saved) and not torch.is_grad_enabled()
    gradients: Any = _gradients if direct else embed_backward_op
    found: list[Tensor] = gradients(grad_out, ctx.sizes, saved[:number], saved[number:])
    return found


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return *_table_gradients(ctx, grad_out), *(None,) * (2 * len(ctx.sizes))


def _op_backward(ctx: Any, grad_out: Tensor) -> tuple[list[Any], ...]:
    none = [None] * len(ctx.sizes)
    return _table_gradients(ctx, grad_out), none, none


embed_op.register_autograd(_op_backward, setup_context=_setup_op_context)
embed_backward_op.register_autograd(refuse_second_backward)

_Embed = as_function(_forward, _setup_context, _backward)
