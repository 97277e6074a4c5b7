"""Heads of tokens that lie side by side, taken apart and put together again without copies."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.native.common import at_once


def split_heads(heads: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """As `heads.split(sizes, dim=-2)`, of (..., sum of sizes, D).

    PyTorch copies the gradients of the parts into that of the whole. Where a kernel has written
    them side by side (see `make_beside`), they are that already.
    """
    if torch.is_grad_enabled() and heads.requires_grad and at_once(heads):
        parts: tuple[Tensor, ...] = _Split.apply(heads, list(sizes))
        return parts
    return heads.split(list(sizes), dim=-2)


def make_beside(*parts: Tensor) -> tuple[Tensor, ...]:
    """Room for tensors like `parts`, (..., heads, D): in one piece if they are one's heads."""
    if not _are_one(parts):
        return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in parts)
    sizes = [x.shape[-2] for x in parts]
    whole = parts[0].new_empty((*parts[0].shape[:-2], sum(sizes), parts[0].shape[-1]))
    return whole.split(sizes, dim=-2)


def _are_one(parts: Sequence[Tensor]) -> bool:
    """Whether they are, in their order, all heads of one contiguous tensor."""
    first = parts[0]
    sizes = [x.shape[-2] for x in parts]
    strides = torch.empty((*first.shape[:-2], sum(sizes), first.shape[-1]), device="meta").stride()
    address = first.data_ptr()
    for x, size in zip(parts, sizes, strict=True):
        if x.stride() != strides or x.data_ptr() != address:
            return False
        if x.shape[:-2] != first.shape[:-2] or x.shape[-1] != first.shape[-1]:
            return False
        address += size * first.shape[-1] * x.element_size()
    return True


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        return heads.split(sizes, dim=-2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0]._base
        if (
            whole is not None
            and whole.numel() == sum(x.numel() for x in gradients)
            and all(x._base is whole for x in gradients)
            and not torch.is_grad_enabled()
            and _are_one(gradients)
        ):
            # Tokens of several rows may have been one after another when they were written.
            return whole.view(*gradients[0].shape[:-2], -1, gradients[0].shape[-1]), None
        return torch.cat(gradients, dim=-2), None
