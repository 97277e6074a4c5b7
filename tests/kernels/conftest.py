"""Kernels under test: in Triton's interpreter where there is no GPU, and on NaN-filled memory."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


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


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """The folder of a user without compiled kernels; nothing found out here is remembered."""
    from fastad_kernels import dispatch
    from fastad_kernels.native import build, choices

    remembered = (
        build.library, build.built, build._why_unavailable, choices._ratios,
        choices._rows, dispatch._log_choice,
    )  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    for function in remembered:
        function.cache_clear()
    yield tmp_path / "fastad"
    choices.impose({})
    for function in remembered:
        function.cache_clear()


@pytest.fixture(scope="session")
def compiled_kernels():
    """This machine's compiled kernels: the library and its manifest."""
    from fastad_kernels.native import built, why_unavailable

    if why_unavailable() is not None:
        pytest.skip(why_unavailable())
    return built()


@pytest.fixture
def full_cache(compiled_kernels, empty_cache) -> Path:
    """The folder of a user who has compiled the kernels."""
    empty_cache.mkdir(mode=0o755)
    for path in (compiled_kernels.path, compiled_kernels.manifest_path):
        shutil.copy(path, empty_cache)
    return empty_cache
