"""Which implementation "auto" takes, and that it says so once."""

import logging
from types import SimpleNamespace

import pytest
import torch
from fastad_kernels import attention, dispatch, native


@pytest.mark.parametrize(
    ("dtype", "reason", "name", "why"),
    [
        (torch.float32, None, "native", "measured"),
        (torch.float32, "no compiler", "sdpa", "no compiler"),
        (torch.float64, None, "sdpa", "the C++ kernels compute in float32"),
    ],
)
def test_auto_logs_once_what_it_takes_on_a_cpu(caplog, monkeypatch, dtype, reason, name, why):
    dispatch._log_choice.cache_clear()
    monkeypatch.setattr(native, "why_unavailable", lambda: reason)
    monkeypatch.setattr(native, "prefer", lambda operation, size: ("native", "measured"))
    q = torch.zeros(1, 3, 1, 16, dtype=dtype)
    with caplog.at_level(logging.INFO, logger="fastad_kernels.dispatch"):
        for _ in range(2):
            assert dispatch.find_implementation("auto", q).__name__ == f"fastad_kernels.{name}"
    assert [record.getMessage() for record in caplog.records] == [
        f"attention on cpu with head dim 16: {name} ({why})"
    ]


@pytest.mark.parametrize(
    ("head_dim", "installed", "expected"),
    [(16, True, "triton"), (128, True, "triton"), (24, True, "sdpa"), (16, False, "sdpa")],
)
def test_auto_takes_triton_on_a_gpu_where_it_can(monkeypatch, head_dim, installed, expected):
    monkeypatch.setattr(dispatch, "TRITON_IS_INSTALLED", installed)
    q = SimpleNamespace(device=torch.device("cuda"), shape=(1, 3, 1, head_dim))
    assert dispatch.choose(q)[0] == expected


@pytest.mark.parametrize("impl", ["auto", "sdpa", "reference"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_is_traced_as_one_graph(impl, dropout):
    q = torch.randn(1, 20, 2, 16, generator=torch.Generator().manual_seed(0))

    def banded(x):
        return attention(x, x, x, window=5, dropout=dropout, impl=impl)

    actual = torch.compile(banded, backend="aot_eager", fullgraph=True)(q)
    if dropout == 0.0:
        torch.testing.assert_close(actual, banded(q))
    assert actual.isfinite().all()
