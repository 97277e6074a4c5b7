"""Public calls beside attention, all of them row by row: tokens' tables, linear maps, MLPs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastad_kernels import checks, reference
from fastad_kernels.dispatch import IMPLEMENTATIONS, Implementation, Operation, resolve


def embed(
    tables: Sequence[Tensor],
    indices: Sequence[Tensor],
    factors: Sequence[Tensor | None] | None = None,
    *,
    impl: Implementation = "auto",
) -> Tensor:
    """Tokens as sums of rows of tables: sum over j and k of factors[j] * tables[j][indices[j][k]].

    "native" has a kernel for float32 tables: one pass forward and one backward, where PyTorch
    takes one for each table and each sum. It gives tables the same gradient with any number of
    threads. All others take PyTorch's own operations, as do factors that want a gradient and
    `torch.func`.

    Args:
        tables: One or more, (rows, width).
        indices: For each of them, (..., K) int64, with `K` rows of its own to a token.
        factors: For each of them (...), or None for 1; None altogether where all are 1.
        impl: See above.

    Returns:
        (..., width).

    Raises:
        ValueError: If shapes do not fit together, or `impl` is unknown or cannot work here.
        IndexError: If a table lacks a row.
    """
    given = [None] * len(tables) if factors is None else list(factors)
    checks.check_embedding(tables, indices, given)
    numbers = [x for x in given if x is not None]
    takes_rows = _takes_rows("embedding", impl, tuple(tables), (tables[0], *numbers))
    function = reference.embed
    if takes_rows and not (
        # Lists of tensors have no batching rule, and under a transform nobody knows who wants what.
        torch._C._are_functorch_transforms_active() or any(x.requires_grad for x in numbers)
    ):
        from fastad_kernels.native import embed as native

        function = native.embed
    return function(tables, indices, given)


def projection(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
    epsilon: float = 1e-5,
    impl: Implementation = "auto",
) -> Tensor:
    """A linear map with what stands beside it in a block: weight @ norm(x) + bias + residual.

    "native" has a kernel for float32 rows, which keeps nothing but x for the backward pass, and
    gives a row the same bits in every batch. All others, and all other rows, take PyTorch's own
    operations.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).
        norm: Scale and shift of a LayerNorm of x, (in,) each, or None.
        residual: Added to the result, (..., out), or None.
        epsilon: LayerNorm's.
        impl: See above.

    Returns:
        (..., out).

    Raises:
        ValueError: If shapes do not fit together, or `impl` is unknown or cannot work here.
    """
    checks.check_linear(x, weight, bias, norm=norm, residual=residual)
    rows = (x,) if residual is None else (x, residual)
    function = reference.projection
    if _takes_rows("projection", impl, (weight, bias, *(norm or ())), rows):
        from fastad_kernels.native import projection as native

        function = native.projection
    return function(x, weight, bias, norm=norm, residual=residual, epsilon=epsilon)


def residual_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    epsilon: float = 1e-5,
    impl: Implementation = "auto",
) -> Tensor:
    """The MLP of a pre-norm block, x + out(gelu(in(norm(x)))).

    "native" has a kernel for float32 rows, which keeps nothing but x for the backward pass, and
    gives a row the same bits in every batch. All others, and all other rows, take PyTorch's own
    operations.

    Args:
        x: (..., width).
        norm_weight: LayerNorm's scale, (width,).
        norm_bias: Its shift, (width,).
        in_weight: (hidden, width).
        in_bias: (hidden,).
        out_weight: (width, hidden).
        out_bias: (width,).
        epsilon: LayerNorm's.
        impl: See above.

    Returns:
        (..., width).

    Raises:
        ValueError: If shapes do not fit together, or `impl` is unknown or cannot work here.
    """
    norm, weights = (norm_weight, norm_bias), (in_weight, in_bias, out_weight, out_bias)
    checks.check_linear(x, in_weight, in_bias, norm=norm, residual=None)
    checks.check_linear(x.new_empty(0, in_weight.shape[0]), out_weight, out_bias, norm=None)
    if out_weight.shape[0] != x.shape[-1]:
        raise ValueError(f"out_weight {tuple(out_weight.shape)} must lead back to {x.shape[-1]}")
    function = reference.residual_mlp
    if _takes_rows("mlp", impl, (*norm, *weights), (x,)):
        from fastad_kernels.native import mlp

        function = mlp.residual_mlp
    return function(x, *norm, *weights, epsilon)


def _takes_rows(
    operation: Operation, impl: str, weights: tuple[Tensor, ...], rows: tuple[Tensor, ...]
) -> bool:
    """Whether the C++ kernels shall and can do it."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} must be one of {', '.join(IMPLEMENTATIONS)}")
    if resolve(impl, rows[0], operation=operation) != "native":
        return False
    from fastad_kernels import native

    reason = native.why_unavailable()
    if reason is not None:
        raise ValueError(f"impl='native' cannot be used here: {reason}")
    return native.takes_rows(weights, rows)
