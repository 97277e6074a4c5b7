"""Heads taken apart by `split_heads`: the gradient of the whole, without a copy where it is one."""

import pytest
import torch
from fastad_kernels import attention, attention_varlen
from fastad_kernels.native import why_unavailable
from fastad_kernels.native.heads import split_heads

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


def gradient(split, heads, sizes, impl):
    leaf = heads.clone().requires_grad_()
    out = attention(*split(leaf * 2.0, sizes), window=20, impl=impl)
    weights = torch.arange(out.numel(), dtype=out.dtype).cos().view(out.shape)
    return torch.autograd.grad(out, leaf, weights)[0]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("impl", ["native", "reference"])
def test_the_gradient_is_that_of_pytorchs_split(kv_heads, impl):
    sizes = [4, kv_heads, kv_heads]
    heads = torch.randn(3, 50, sum(sizes), 16, generator=torch.Generator().manual_seed(0))
    expected = gradient(lambda x, sizes: x.split(sizes, dim=-2), heads, sizes, impl)
    assert torch.equal(gradient(split_heads, heads, sizes, impl), expected)


def test_gradients_that_lie_side_by_side_are_not_copied(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("copied")

    heads = torch.randn(3, 50, 12, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "cat", refuse)
    gradient(split_heads, heads, [4, 4, 4], "native")
    with pytest.raises(AssertionError, match="copied"):
        gradient(split_heads, heads, [4, 4, 4], "reference")


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_rows_may_be_packed_one_after_another(impl):
    bounds = torch.tensor([0, 20, 50, 90, 100], dtype=torch.int32)
    heads = torch.randn(2, 50, 12, 16, generator=torch.Generator().manual_seed(0))

    def packed(split):
        leaf = heads.clone().requires_grad_()
        q, k, v = (x.flatten(0, 1) for x in split(leaf * 2.0, [4, 4, 4]))
        out = attention_varlen(
            q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=40, max_seqlen_k=40,
            window=20, impl=impl,
        )  # fmt: skip
        return torch.autograd.grad(out.square().sum(), leaf)[0]

    assert torch.equal(packed(split_heads), packed(lambda x, sizes: x.split(sizes, dim=-2)))


def test_gradients_in_another_order_are_put_in_theirs():
    """Those of keys and queries changed places: one piece, but not that of the heads."""
    sizes = [4, 4, 4]
    heads = torch.randn(2, 30, 12, 16, generator=torch.Generator().manual_seed(0))

    def swapped(split):
        return gradient(
            lambda x, sizes: [split(x, sizes)[i] for i in (1, 0, 2)], heads, sizes, "native"
        )

    expected = swapped(lambda x, sizes: x.split(sizes, dim=-2))
    assert torch.equal(swapped(split_heads), expected)
