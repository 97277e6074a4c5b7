"""Edges of what decoding promises, by every implementation: rings that just fit, long steps."""

import pytest
import torch
from fastad_kernels import RingCache, alibi_slopes, attention, decode_attention, native

from tests.kernels.tolerance import NUM_DRAWS, assert_as_exact_as_plain

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_compiler = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)
on_cpus = pytest.mark.skipif(DEVICE != "cpu", reason="the kernels for CPUs read memory of the host")
KERNELS = pytest.mark.parametrize(
    "impl", ["triton", pytest.param("native", marks=[needs_compiler, on_cpus])]
)
RING_ORDER = {"native": "column", "triton": "token"}
HEADS, KV_HEADS, DIM = 4, 2, 16
ORDERS = (0, 3, 6, 11)


def make_ring(impl, capacity, batch=NUM_DRAWS // HEADS):
    ring = RingCache(batch, capacity, KV_HEADS, DIM, device=DEVICE, order=RING_ORDER[impl])
    assert ring.capacity == capacity  # or an edge is not met
    return ring


def make_tokens(length, batch=NUM_DRAWS // HEADS, seed=0):
    """q, k and v; values lie otherwise in memory than keys, as those of another projection do."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (
        torch.randn(batch, length, count, DIM, generator=generator) for count in (HEADS, KV_HEADS)
    )
    v = torch.randn(batch, KV_HEADS, length, DIM + 8, generator=generator)[..., 4 : DIM + 4]
    return [x.to(DEVICE) for x in (q, k, v.transpose(1, 2))]


def assert_decoding_equals_attention(impl, ring, *, window, num_new, num_steps, slopes=None):
    tokens = make_tokens(num_new * num_steps)
    out = torch.cat(
        [
            decode_attention(*step, ring, window=window, alibi_slopes=slopes, impl=impl)
            for step in zip(*(x.split(num_new, dim=1) for x in tokens), strict=True)
        ],
        dim=1,
    )
    settings = {"window": window, "alibi_slopes": slopes, "impl": "reference"}
    q, k, v = tokens
    plain = [attention(q.roll(n, -1), k.roll(n, -1), v, **settings) for n in ORDERS]
    exact = attention(q.double(), k.double(), v.double(), **settings)
    assert_as_exact_as_plain(out, plain, exact)


@KERNELS
@pytest.mark.parametrize("alibi", [False, True])
def test_a_window_may_be_all_of_the_ring(impl, alibi):
    slopes = alibi_slopes(HEADS, device=torch.device(DEVICE)) if alibi else None
    ring = make_ring(impl, 16)
    assert_decoding_equals_attention(impl, ring, window=16, num_new=1, num_steps=40, slopes=slopes)


@KERNELS
@pytest.mark.parametrize("alibi", [False, True])
def test_a_step_may_be_longer_than_the_window(impl, alibi):
    # The first new token sees 12 old ones, the last one no old one at all.
    slopes = alibi_slopes(HEADS, device=torch.device(DEVICE)) if alibi else None
    ring = make_ring(impl, 32)
    assert_decoding_equals_attention(impl, ring, window=13, num_new=20, num_steps=3, slopes=slopes)


@KERNELS
@pytest.mark.parametrize(("window", "num_new"), [(17, 1), (14, 4)])
def test_a_ring_one_token_too_small_is_refused(impl, window, num_new):
    ring = make_ring(impl, 16)
    with pytest.raises(ValueError, match="needs a ring of at least 17 tokens"):
        decode_attention(*make_tokens(num_new), ring, window=window, impl=impl)
    assert ring.lengths.tolist() == [0] * len(ring.lengths)
    # One token less of either fits.
    decode_attention(*make_tokens(num_new), ring, window=window - 1, impl=impl)


@KERNELS
@pytest.mark.parametrize("num_new", [1, 3])
def test_rings_go_on_past_two_to_the_31_tokens(impl, num_new):
    """A counter of 32 bits would wrap within these steps, and with it the slots and distances."""
    window, capacity, batch = 14, 48, NUM_DRAWS // HEADS
    slopes = alibi_slopes(HEADS, device=torch.device(DEVICE))
    _, keys, values = make_tokens(capacity, seed=1)
    outs = []
    others = [(order, torch.float32) for order in ORDERS] + [(0, torch.float64)]
    rings = [make_ring(impl, capacity)] + [
        RingCache(batch, capacity, KV_HEADS, DIM, dtype=dtype, device=DEVICE) for _, dtype in others
    ]
    for ring, (order, _) in zip(rings, [(0, None), *others], strict=True):
        ring.keys.copy_(keys.roll(order, -1))
        ring.values.copy_(values.roll(order, -1))
        ring.lengths.copy_(torch.tensor([2**31 - 5, 2**33 - 2]))
        ring.lockstep = None
    for seed in range(8):
        q, k, v = make_tokens(num_new, seed=2 + seed)
        settings = {"window": window, "alibi_slopes": slopes}
        outs.append([decode_attention(q, k, v, rings[0], impl=impl, **settings)])
        for ring, (order, dtype) in zip(rings[1:], others, strict=True):
            moved = (x.to(dtype).roll(order, -1) for x in (q, k, v))
            out = decode_attention(*moved, ring, impl="reference", **settings)
            outs[-1].append(out.roll(-order, -1))
    assert rings[0].lengths.tolist() == [2**31 - 5 + 8 * num_new, 2**33 - 2 + 8 * num_new]
    actual, *plain, exact = (torch.cat(x, dim=1) for x in zip(*outs, strict=True))
    assert_as_exact_as_plain(actual, plain, exact)
