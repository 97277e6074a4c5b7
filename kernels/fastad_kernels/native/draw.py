"""Distributions, and drawing from them, by the C++ kernels."""

from ctypes import Array, c_float, c_int64
from functools import cache, lru_cache

import torch
from torch import Tensor

from fastad_kernels.native.build import library

LONGEST_SUM = 7  # of which the kernel knows PyTorch's order


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """See `fastad_kernels.draw`."""
    check(probs, uniform)
    probs, uniform = probs.contiguous(), uniform.contiguous()
    shape = probs.shape
    drawn = torch.empty(shape[0], dtype=torch.int64)
    library().fastad_draw(_as_c(shape), probs.data_ptr(), uniform.data_ptr(), drawn.data_ptr(), 1)
    return drawn


def check(probs: Tensor, uniform: Tensor) -> None:
    """Refuse what the kernel would misread, see `draw`."""
    if not (probs.dtype == uniform.dtype == torch.float32 and probs.is_cpu and uniform.is_cpu):
        raise ValueError(
            f"probs are {probs.dtype} on {probs.device}, uniform numbers {uniform.dtype} on "
            f"{uniform.device}; the C++ kernels compute in float32 on CPUs"
        )
    if probs.ndim != 2 or uniform.shape != (probs.shape[0], 1):
        raise ValueError(
            f"probs {tuple(probs.shape)} and uniform numbers {tuple(uniform.shape)} must be "
            "(N, A) and (N, 1)"
        )


@lru_cache(maxsize=64)
def _as_c(shape: tuple[int, ...]) -> Array[c_int64]:
    """A shape, or strides, as the kernels read it; every step of a rollout has the same."""
    return (c_int64 * len(shape))(*shape)


def normalise(weights: Tensor, epsilon: float = 0.0) -> Tensor:
    """See `fastad_kernels.normalise`; contiguous, float32 on a CPU, up to `LONGEST_SUM` entries."""
    shape = weights.shape
    mixed = _mixed(epsilon, shape[1])
    library().fastad_normalise(_as_c(shape), weights.data_ptr(), mixed, 1)
    return weights


def normalise_and_draw(weights: Tensor, uniform: Tensor, epsilon: float) -> Tensor:
    """Both at once; arguments as of `normalise`, and (N, 1) float32 on a CPU."""
    uniform, shape = uniform.contiguous(), weights.shape
    drawn = torch.empty(shape[0], dtype=torch.int64)
    library().fastad_normalise_and_draw(
        _as_c(shape), weights.data_ptr(), _mixed(epsilon, shape[1]), uniform.data_ptr(),
        drawn.data_ptr(), 1,
    )  # fmt: skip
    return drawn


@lru_cache(maxsize=64)
def _mixed(epsilon: float, size: int) -> Array[c_float]:
    """What is kept of a distribution over `size` entries, and added to each."""
    return (c_float * 2)(1 - epsilon, epsilon / size)


def softmax(scores: Tensor) -> Tensor:
    """See `fastad_kernels.softmax`; (M, R, A) float32 on a CPU, not empty."""
    probs = torch.empty(scores.shape)
    library().fastad_softmax(
        _as_c(scores.shape), _as_c(scores.stride()), scores.data_ptr(), probs.data_ptr(), 1
    )
    return probs


@cache
def sums_like_pytorch(size: int) -> bool:
    """Whether the kernel adds rows up in PyTorch's order on this processor: found by trying."""
    if not 0 < size <= LONGEST_SUM:
        return False
    rows = torch.rand(1003, size, generator=torch.Generator().manual_seed(0))
    tried = (rows, rows[:1])
    return all(
        torch.equal(normalise(few.clone()), few / few.sum(dim=1, keepdim=True)) for few in tried
    )
