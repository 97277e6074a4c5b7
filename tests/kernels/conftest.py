"""Kernels under test: in Triton's interpreter where there is no GPU, and on NaN-filled memory."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when a kernel is defined, so it must be set before any test imports one.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def allocate_nan(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = allocate(*args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    return allocate_nan


@pytest.fixture(autouse=True)
def _nan_filled_memory(monkeypatch):
    """What a kernel forgets to write, or reads without having been given it, is NaN."""
    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, _poisoned(getattr(torch, name)))
