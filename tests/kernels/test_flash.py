"""The adapter to flash-attn: what it refuses, and how it translates what it passes on."""

import sys
from types import SimpleNamespace

import pytest
import torch
from fastad_kernels import RingCache, attention, attention_varlen, decode_attention, flash

HALF = torch.float16


@pytest.mark.parametrize(
    ("dtype", "dim", "settings", "message"),
    [
        (torch.float32, 16, {}, "q has dtype torch.float32; impl='flash' takes float16"),
        (HALF, 12, {}, "head dim 12; impl='flash' takes multiples of 8"),
        (HALF, 264, {}, "head dim 264"),
        (HALF, 16, {"causal": False, "alibi_slopes": torch.ones(2)}, "alibi_slopes with causal"),
        (HALF, 16, {}, "q is on cpu; impl='flash' runs on GPUs"),
        (HALF, 16, {"dropout": 0.1, "dropout_seed": torch.tensor([1])}, "dropout_seed is given"),
    ],
)
def test_flash_refuses_what_it_cannot_do(dtype, dim, settings, message):
    q = torch.zeros(1, 4, 2, dim, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        attention(q, q, q, impl="flash", **settings)
    cu_seqlens = {f"cu_seqlens_{x}": torch.tensor([0, 4], dtype=torch.int32) for x in "qk"}
    lengths = {"max_seqlen_q": 4, "max_seqlen_k": 4}
    with pytest.raises(ValueError, match=message):
        attention_varlen(q[0], q[0], q[0], impl="flash", **cu_seqlens, **lengths, **settings)


def test_flash_refuses_ring_caches():
    q = torch.zeros(1, 1, 2, 16, dtype=HALF)
    with pytest.raises(ValueError, match="cannot decode from a ring cache"):
        decode_attention(q, q, q, RingCache(1, 8, 2, 16, dtype=HALF), window=4, impl="flash")


def test_flash_says_that_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    q = torch.zeros(1, 4, 2, 16, dtype=HALF)
    with pytest.raises(ValueError, match="needs the package flash-attn"):
        flash._package(_on_gpu(q), True, None)


def _on_gpu(q):
    """What the checks ask of a tensor, for one that claims to be on a GPU."""
    return SimpleNamespace(dtype=q.dtype, shape=q.shape, device=torch.device("cuda"))


@pytest.fixture
def calls(monkeypatch):
    """A flash_attn that notes how it is called; everything counts as being on a GPU."""
    noted = []
    fake = SimpleNamespace(
        flash_attn_func=lambda *args, **kwargs: noted.append(("dense", args, kwargs)) or args[0],
        flash_attn_varlen_func=lambda *args, **kwargs: (
            noted.append(("packed", args, kwargs)) or args[0]
        ),
    )
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    checked = flash._package
    monkeypatch.setattr(flash, "_package", lambda q, *rest: checked(_on_gpu(q), *rest))
    return noted


@pytest.mark.parametrize(
    ("window", "causal", "expected"),
    [(5, True, (4, 0)), (None, True, (-1, 0)), (1, True, (0, 0)), (5, False, (4, -1))],
)
def test_a_window_of_w_looks_w_minus_one_back(calls, window, causal, expected):
    q = torch.zeros(1, 4, 2, 16, dtype=HALF)
    out = attention(q, q, q, window=window, causal=causal, impl="flash")
    ((kind, args, kwargs),) = calls
    assert kind == "dense"
    assert out is q
    assert all(arg is q for arg in args)
    assert kwargs == {
        "dropout_p": 0.0, "softmax_scale": 0.25, "causal": causal, "window_size": expected,
        "alibi_slopes": None,
    }  # fmt: skip


def test_packed_arguments_keep_flash_attns_order(calls):
    q, k = torch.zeros(5, 2, 16, dtype=HALF), torch.zeros(7, 1, 16, dtype=HALF)
    cu_q, cu_k = (torch.tensor(x, dtype=torch.int32) for x in ([0, 2, 5], [0, 3, 7]))
    slopes = torch.tensor([0.5, 0.25], dtype=HALF)
    attention_varlen(
        q, k, k, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, max_seqlen_q=3, max_seqlen_k=4, scale=2.0,
        alibi_slopes=slopes, dropout=0.25, impl="flash",
    )  # fmt: skip
    ((kind, args, kwargs),) = calls
    assert kind == "packed"
    assert all(a is b for a, b in zip(args, (q, k, k, cu_q, cu_k, 3, 4), strict=True))
    assert kwargs["alibi_slopes"].dtype == torch.float32
    assert kwargs["alibi_slopes"].tolist() == [0.5, 0.25]
    assert (kwargs["dropout_p"], kwargs["softmax_scale"]) == (0.25, 2.0)
