"""Packed sequences: each is attended to by itself, whatever stands beside it."""

import pytest
import torch
from fastad_kernels import alibi_slopes, attention, attention_varlen

QUERIES, KEYS = (5, 1, 0, 40, 1), (5, 9, 3, 17, 1)


def pack(*, kv_heads=2, dim=16):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(sum(lengths), heads, dim, generator=generator, dtype=torch.float64)
        for lengths, heads in ((QUERIES, 4), (KEYS, kv_heads), (KEYS, kv_heads))
    ]


def lengths_of(queries=QUERIES, keys=KEYS):
    return {
        "cu_seqlens_q": torch.tensor([0, *queries]).cumsum(0).to(torch.int32),
        "cu_seqlens_k": torch.tensor([0, *keys]).cumsum(0).to(torch.int32),
        "max_seqlen_q": max(queries),
        "max_seqlen_k": max(keys),
    }


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("settings", [{}, {"window": 4}, {"causal": False}])
def test_each_sequence_is_as_it_would_be_alone(impl, settings):
    q, k, v = pack()
    settings = settings | {"alibi_slopes": alibi_slopes(4)}
    out = attention_varlen(q, k, v, **lengths_of(), impl=impl, **settings)
    parts = zip(out.split(QUERIES), q.split(QUERIES), k.split(KEYS), v.split(KEYS), strict=True)
    for actual, *qkv in parts:
        expected = attention(*(x[None] for x in qkv), impl="reference", **settings)
        torch.testing.assert_close(actual[None], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_gradients_stay_within_their_sequence(impl):
    q, k, v = (x.requires_grad_() for x in pack())
    out = attention_varlen(q, k, v, **lengths_of(), impl=impl)
    first, second = QUERIES[0], QUERIES[0] + QUERIES[1]
    out[first:second].sum().backward()
    for x, lengths in ((q, QUERIES), (k, KEYS), (v, KEYS)):
        inside = slice(lengths[0], lengths[0] + lengths[1])
        # A softmax over one key or more: v always moves, q and k where there are two keys.
        assert x.grad[inside].abs().sum() > 0
        x.grad[inside] = 0
        assert x.grad.abs().max() == 0


def test_dropout_masks_depend_on_the_number_of_the_sequence():
    # Two equal sequences: the second is dropped as row 1 of a dense batch is, not as row 0.
    q, k, v = (x[:5].repeat(2, 1, 1) for x in pack())
    settings = {"dropout": 0.4, "dropout_seed": torch.tensor([7]), "impl": "reference"}
    packed = attention_varlen(q, k, v, **lengths_of((5, 5), (5, 5)), **settings)
    dense = attention(*(x.view(2, 5, *x.shape[1:]) for x in (q, k, v)), **settings)
    torch.testing.assert_close(packed.view(dense.shape), dense, rtol=1e-12, atol=1e-12)
    assert not torch.equal(dense[0], dense[1])
