"""Which implementation "auto" takes, and that it says so once."""

import logging

import pytest
import torch
from fastad_kernels import attention, dispatch, sdpa


def test_auto_takes_sdpa_on_a_cpu_and_logs_it_once(caplog):
    dispatch._log_choice.cache_clear()
    q = torch.zeros(1, 3, 1, 16)
    with caplog.at_level(logging.INFO, logger="fastad_kernels"):
        for _ in range(2):
            assert dispatch.find_implementation("auto", q) is sdpa
            attention(q, q, q)
    assert [record.getMessage() for record in caplog.records] == [
        "attention on cpu with head dim 16: sdpa (PyTorch's fused kernels, banded by blocks)"
    ]


@pytest.mark.parametrize(
    ("head_dim", "installed", "expected"),
    [(16, True, "triton"), (128, True, "triton"), (24, True, "sdpa"), (16, False, "sdpa")],
)
def test_auto_takes_triton_on_a_gpu_where_it_can(monkeypatch, head_dim, installed, expected):
    monkeypatch.setattr(dispatch, "TRITON_IS_INSTALLED", installed)
    assert dispatch.choose("cuda", head_dim)[0] == expected


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
