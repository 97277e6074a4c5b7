"""Decoding by the C++ kernels: one layer's attention from its ring."""

import itertools

import pytest
import torch
from fastad_kernels import (
    RingCache,
    alibi_slopes,
    apply_rope,
    attention,
    decode_attention,
    native,
    rope_angles,
)

from tests.kernels.pairwise import pairwise
from tests.kernels.tolerance import NUM_DRAWS, assert_as_exact_as_plain

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)

ORDERS = (0, 1, 2, 3)  # places by which features are moved before plain PyTorch sums over them
# Window, and new tokens per step: of 16, a window that is all of the ring.
STEPS = {1: 3, 15: 3, 16: 1, 600: 90}
FACTORS = {
    "scheme": ["none", "alibi", "rope"],
    "dim": [5, 16, 64],
    "heads": [(1, 1), (4, 4), (6, 2), (7, 1)],
}
CASES = [
    dict(zip(("window", *FACTORS), case, strict=True))
    for case in itertools.product((1, 15, 16), *FACTORS.values())
] + [{"window": 600} | case for case in pairwise(**FACTORS)]
CASES = [case for case in CASES if case["scheme"] != "rope" or case["dim"] % 2 == 0]


def make_ring(batch, capacity, kv_heads, dim, **settings):
    ring = RingCache(batch, capacity, kv_heads, dim, order="column", **settings)
    ring.keys.fill_(float("nan"))
    ring.values.fill_(float("nan"))
    return ring


def banded(q, k, v, window, slopes):
    """The specification over a long sequence, by blocks of queries with the keys that they see."""
    return torch.cat([
        attention(
            q[:, first : first + 200],
            *(x[:, max(first - window + 1, 0) : first + 200] for x in (k, v)),
            window=window, alibi_slopes=slopes, impl="reference",
        )
        for first in range(0, q.shape[1], 200)
    ], dim=1)  # fmt: skip


def describe(case):
    return "-".join(map(str, (case["window"], case["scheme"], case["dim"], *case["heads"])))


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_decoding_is_as_exact_as_plain_attention_over_the_whole_sequence(case):
    window, scheme, dim, (heads, kv_heads) = case.values()
    length, per_step, batch = 3 * window + 10, STEPS[window], NUM_DRAWS if window < 600 else 2
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(batch, length, n, dim, generator=generator) for n in (heads, kv_heads))
    # As values of a projection of their own: they lie otherwise in memory than the keys.
    v = torch.randn(batch, kv_heads, dim, length, generator=generator).permute(0, 3, 1, 2)
    slopes = alibi_slopes(heads) if scheme == "alibi" else None
    ring = make_ring(batch, window + per_step - 1, kv_heads, dim)
    outs = []
    for first in range(0, length, per_step):
        step = slice(first, first + per_step)
        rope = None
        if scheme == "rope":
            rope = rope_angles(ring.new_positions(len(range(length)[step])), dim)
        outs.append(
            decode_attention(
                q[:, step], k[:, step], v[:, step], ring, window=window, alibi_slopes=slopes,
                rope=rope, impl="native",
            )
        )  # fmt: skip
    assert ring.lengths.tolist() == [length] * batch
    assert ring.lockstep == length
    if scheme == "rope":
        angles = rope_angles(torch.arange(length), dim)
        q, k = apply_rope(q, *angles), apply_rope(k, *angles)
    plain = [banded(q.roll(n, -1), k.roll(n, -1), v, window, slopes) for n in ORDERS]
    exact = banded(q.double(), k.double(), v.double(), window, slopes)
    assert_as_exact_as_plain(torch.cat(outs, 1), plain, exact)


def test_a_shared_ring_keeps_one_tensor_for_keys_and_values():
    ring = make_ring(2, 8, 1, 16, shared=True)
    assert ring.keys.data_ptr() == ring.values.data_ptr()
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 20, count, 16, generator=generator) for count in (3, 1))
    with pytest.raises(ValueError, match="give the same tensor as k and v"):
        decode_attention(q[:, :1], k[:, :1], k[:, 1:2], ring, window=8)
    outs = []
    for t in range(20):
        new = k[:, t : t + 1]
        impl = ("native", "reference", "sdpa")[t % 3]
        outs.append(decode_attention(q[:, t : t + 1], new, new, ring, window=8, impl=impl))
    expected = attention(q, k, k, window=8, impl="reference")
    torch.testing.assert_close(torch.cat(outs, 1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "ring", [RingCache(1, 16, 2, 16), RingCache(1, 16, 2, 16, order="token")], ids=["head", "token"]
)
def test_a_ring_that_lies_otherwise_is_refused_by_name_and_left_to_others_by_auto(ring):
    x = torch.zeros(1, 1, 2, 16)
    with pytest.raises(ValueError, match="native' needs a float32 ring of order='column'"):
        decode_attention(x, x, x, ring, window=8, impl="native")
    assert decode_attention(x, x, x, ring, window=8).abs().max() == 0


def test_no_gradient_flows_through_a_ring():
    x = torch.zeros(1, 1, 2, 16, requires_grad=True)
    with pytest.raises(ValueError, match="requires a gradient, which decoding does not compute"):
        decode_attention(x, x, x, make_ring(1, 8, 2, 16), window=8, impl="native")
    assert decode_attention(x, x, x, RingCache(1, 8, 2, 16, order="column"), window=8).requires_grad
