"""Tensors whose elements lie more than 2^31 apart, in memory that is promised but never taken."""

import mmap
import sys

import pytest
import torch
from fastad_kernels import RingCache, attention, attention_varlen, cache, decode_attention

from tests.kernels.test_edges import DEVICE, KERNELS, RING_ORDER

pytestmark = pytest.mark.skipif(
    DEVICE != "cpu" or sys.platform != "linux", reason="reserves memory of the host, as Linux does"
)

MAP_NORESERVE = 0x4000  # of Linux; the module has no name for it before Python 3.13


class Reserve:
    """Float32 tensors in reserved memory: what is not touched takes none.

    As much lies before a tensor as an offset that has lost its upper bits would lead back, so that
    a kernel with such an offset reads zeros, and no memory that is not there.
    """

    BEFORE = 2**32

    def __call__(self, shape, strides):
        """A tensor of zeros with these sizes and strides, in elements."""
        last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        size = 4 * (self.BEFORE + last + 1)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            memory = mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            pytest.skip(f"{size} bytes of addresses are not to be had: {error}")
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # a huge page for every element would take gigabytes
        whole = torch.frombuffer(memory, dtype=torch.float32)
        return whole.as_strided(shape, strides, self.BEFORE)


@pytest.fixture
def reserve(monkeypatch):
    """Triton's interpreter would write every launch's tensors back onto themselves."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)
    return Reserve()


def run(call, qkv, gradient, **settings):
    inputs = [x.detach().requires_grad_() for x in qkv]
    out = call(*inputs, **settings)
    return out.detach(), *torch.autograd.grad(out, inputs, gradient)


# Strides of (sequence, token, head), of which one leads the third sequence or head past 2^31 or,
# for offsets without a sign, 2^32.
LAYOUTS = {
    "sequences": (2**30 + 64, 64, 20),
    "heads": (32 * 20, 32, 2**30 + 64),
    "sequences behind 2^32": (2**31 + 64, 64, 20),
}


@KERNELS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sequences_and_heads_may_lie_far_apart(impl, layout, reserve):
    generator = torch.Generator().manual_seed(0)
    near = [torch.randn(3, 20, 3, 16, generator=generator) for _ in range(3)]
    gradient = torch.randn(3, 20, 3, 16, generator=generator)
    far = [reserve(x.shape, (*LAYOUTS[layout], 1)).copy_(x) for x in near]
    expected, actual = (run(attention, x, gradient, window=9, impl=impl) for x in (near, far))
    assert all(map(torch.equal, actual, expected))


@KERNELS
def test_packed_sequences_may_begin_far_behind_the_first(impl, reserve):
    generator = torch.Generator().manual_seed(0)
    lengths = [260, 12]  # the second sequence begins past 2^31
    near = [torch.randn(sum(lengths), 1, 16, generator=generator) for _ in range(3)]
    far = [reserve(x.shape, (2**23 + 16, 16, 1)).copy_(x) for x in near]
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    settings = {
        "cu_seqlens_q": ends, "cu_seqlens_k": ends, "max_seqlen_q": 260, "max_seqlen_k": 260,
        "window": 9, "impl": impl,
    }  # fmt: skip
    gradient = torch.randn(sum(lengths), 1, 16, generator=generator)
    expected, actual = (run(attention_varlen, x, gradient, **settings) for x in (near, far))
    assert all(map(torch.equal, actual, expected))


@KERNELS
def test_rings_of_more_than_two_to_the_31_numbers_keep_environments_apart(
    impl, reserve, monkeypatch
):
    """The second environment's slots begin at 2^32, and of columns the last features past 2^31."""
    heads, dim, capacity = 2, 16, 2**27
    order = RING_ORDER[impl]
    strides = {
        "column": (heads * dim * capacity, 1, dim * capacity, capacity),
        "token": (heads * dim * capacity, heads * dim, dim, 1),
    }[order]
    rings = [RingCache(2, 32, heads, dim, order=order)]
    monkeypatch.setattr(cache, "_storage", lambda shape, *_: reserve(shape, strides))
    rings.append(RingCache(2, capacity, heads, dim, order=order))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        q, k, v = (torch.randn(2, 3, heads, dim, generator=generator) for _ in range(3))
        expected, actual = (decode_attention(q, k, v, ring, window=7, impl=impl) for ring in rings)
        assert torch.equal(actual, expected)
    assert rings[1].capacity == capacity
