"""Decoding by the C++ kernels: one layer from its ring, and whole frozen blocks."""

import itertools

import pytest
import torch
from fastad_kernels import (
    Affine,
    Block,
    BlockShape,
    RingCache,
    alibi_slopes,
    apply_rope,
    attention,
    decode_attention,
    native,
    rope_angles,
)
from fastad_kernels.blocks import absorb, decode_blocks

from tests.kernels.tolerance import assert_as_exact_as_plain

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)

TOLERANCE = 1e-5  # relative to the largest number, in float32


def make_ring(batch, capacity, kv_heads, dim, **settings):
    ring = RingCache(batch, capacity, kv_heads, dim, order="column", **settings)
    ring.keys.fill_(float("nan"))
    ring.values.fill_(float("nan"))
    return ring


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (7, 1)])
@pytest.mark.parametrize("dim", [5, 16, 64])
@pytest.mark.parametrize("window", [1, 15, 16, 600])
@pytest.mark.parametrize("scheme", ["none", "alibi", "rope"])
def test_decoding_is_as_exact_as_plain_attention_over_the_whole_sequence(
    heads, kv_heads, dim, window, scheme
):
    if scheme == "rope" and dim % 2:
        pytest.skip("rope turns pairs of features")
    length, per_step = 3 * window + 10, 3 if window < 100 else 90
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, length, count, dim, generator=generator)
        for count in (heads, kv_heads, kv_heads)
    )
    slopes = alibi_slopes(heads) if scheme == "alibi" else None
    ring = make_ring(2, window + per_step - 1, kv_heads, dim)
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
    assert ring.lengths.tolist() == [length, length]
    assert ring.lockstep == length
    if scheme == "rope":
        angles = rope_angles(torch.arange(length), dim)
        q, k = apply_rope(q, *angles), apply_rope(k, *angles)
    settings = {"window": window, "alibi_slopes": slopes, "impl": "reference"}
    plain = [
        attention(q.roll(n, -1), k.roll(n, -1), v, **settings) for n in (0, 1, 2)
    ]  # fmt: skip
    exact = attention(q.double(), k.double(), v.double(), **settings)
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


def make_blocks(count, *, width, heads, kv_heads, dim, hidden, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def affine(out, size):
        weight = torch.randn(out, size, generator=generator, dtype=dtype) / size**0.5
        return Affine(weight, 0.1 * torch.randn(out, generator=generator, dtype=dtype))

    def norm():
        shift = 0.1 * torch.randn(2, width, generator=generator, dtype=dtype)
        return Affine(1 + shift[0], shift[1])

    return [
        Block(
            norm(), affine(heads * dim, width), affine(2 * kv_heads * dim, width),
            affine(width, heads * dim), norm(), affine(hidden, width), affine(width, hidden),
        )
        for _ in range(count)
    ]  # fmt: skip


def to(dtype, blocks):
    return [
        Block(*(None if a is None else Affine(a.weight.to(dtype), a.bias.to(dtype)) for a in block))
        for block in blocks
    ]


def absorbed(blocks, shape):
    pairs = [absorb(block, shape) for block in blocks]
    return [block for block, _ in pairs], pairs[0][1]


def rings_for(blocks, shape, batch, capacity, dtype, *, holds_tokens):
    return [
        RingCache(batch, capacity, shape.num_kv_heads, shape.dim, dtype=dtype, shared=holds_tokens)
        for _ in blocks
    ]


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("alibi", [False, True])
def test_absorbed_blocks_are_the_same_function_in_float64(pre_norm, kv_heads, alibi):
    shape = BlockShape(4, kv_heads, 8, 0.3, window=6, pre_norm=pre_norm)
    blocks = make_blocks(2, width=20, heads=4, kv_heads=kv_heads, dim=8, hidden=24)
    others, other_shape = absorbed(blocks, shape)
    assert (other_shape.num_kv_heads, other_shape.dim) == (1, 20)
    slopes = alibi_slopes(4).double() if alibi else None
    rings = rings_for(blocks, shape, 2, 6, torch.float64, holds_tokens=False)
    other_rings = rings_for(others, other_shape, 2, 6, torch.float64, holds_tokens=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        x = torch.randn(2, 1, 20, generator=generator, dtype=torch.float64)
        expected = decode_blocks(x, blocks, rings, shape, alibi_slopes=slopes)
        actual = decode_blocks(x, others, other_rings, other_shape, alibi_slopes=slopes)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_blocks_are_absorbed_once():
    shape = BlockShape(2, 2, 8, 0.3, window=6)
    (block,) = make_blocks(1, width=16, heads=2, kv_heads=2, dim=8, hidden=16)
    block, shape = absorb(block, shape)
    with pytest.raises(ValueError, match="holds tokens already"):
        absorb(block, shape)


SIZES = [
    {"width": 64, "heads": 4, "kv_heads": 4, "dim": 16, "hidden": 256},
    {"width": 20, "heads": 3, "kv_heads": 1, "dim": 6, "hidden": 50},
    {"width": 48, "heads": 6, "kv_heads": 2, "dim": 8, "hidden": 33},
]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"width {sizes['width']}")
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize(("scheme", "tokens"), [
    ("none", False), ("none", True), ("alibi", False), ("alibi", True), ("rope", False),
])  # fmt: skip
@pytest.mark.parametrize("num_new", [1, 3])
@torch.no_grad()
def test_native_blocks_equal_the_specification_through_resets(
    sizes, pre_norm, scheme, tokens, num_new
):
    """Ragged environments, 35 of them: more than go through a block together."""
    batch, window = 35, 20
    heads, kv_heads, dim = (sizes[name] for name in ("heads", "kv_heads", "dim"))
    shape = BlockShape(heads, kv_heads, dim, 1.1 * dim**-0.5, window, pre_norm)
    blocks = make_blocks(2, **sizes)
    slopes = alibi_slopes(heads) if scheme == "alibi" else None
    ours, our_shape = absorbed(blocks, shape) if tokens else (blocks, shape)
    frozen = native.NativeBlocks(to(torch.float32, ours), our_shape, alibi_slopes=slopes)
    rings = frozen.make_rings(batch, window + num_new - 1)
    for ring in rings:
        ring.keys.fill_(float("nan"))
        ring.values.fill_(float("nan"))
    expected_rings = rings_for(
        blocks, shape, batch, window + num_new - 1, torch.float64, holds_tokens=False
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(3 * window // num_new + 5):
        if step % 7 == 5:
            mask = torch.rand(batch, generator=generator) < 0.3
            for ring in (*rings, *expected_rings):
                ring.reset(mask)
            for ring in rings:
                ring.keys[mask] = float("nan")
                ring.values[mask] = float("nan")
        x = torch.randn(batch, num_new, sizes["width"], generator=generator)
        rope = None
        if scheme == "rope":
            rope = rope_angles(rings[0].new_positions(num_new), dim, dtype=torch.float64)
        expected = decode_blocks(
            x.double(), blocks, expected_rings, shape, rope=rope,
            alibi_slopes=None if slopes is None else slopes.double(),
        )  # fmt: skip
        before = x.clone()
        actual = frozen.decode(x, rings, rope=rope)
        assert torch.equal(x, before)
        assert actual.shape == x.shape
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= TOLERANCE, f"step {step}: {error}"
    assert all(ring.lengths.equal(expected_rings[0].lengths) for ring in rings)


@torch.no_grad()
def test_the_number_of_threads_does_not_change_a_bit():
    sizes = SIZES[0]
    shape = BlockShape(4, 4, 16, 0.25, window=20)
    blocks = to(torch.float32, make_blocks(2, **sizes))
    x = torch.randn(9, 1, 64, generator=torch.Generator().manual_seed(1))
    threads, outs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            frozen = native.NativeBlocks(blocks, shape)
            rings = frozen.make_rings(9, 20)
            outs.append(torch.stack([frozen.decode(x, rings) for _ in range(25)]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.fixture
def frozen():
    shape = BlockShape(4, 2, 16, 0.25, window=20)
    sizes = SIZES[0] | {"kv_heads": 2}
    return native.NativeBlocks(to(torch.float32, make_blocks(2, **sizes)), shape)


@pytest.mark.parametrize(
    ("x", "capacity", "message"),
    [
        (torch.zeros(3, 1, 64).double(), 20, "x is torch.float64 on cpu; it must be float32"),
        (torch.zeros(3, 1, 48), 20, r"x has shape \(3, 1, 48\); it must be \(B, T, 64\)"),
        (torch.zeros(3, 0, 64), 20, r"x has shape \(3, 0, 64\)"),
        (torch.zeros(4, 1, 64), 20, r"k has shape \(4, 1, 2, 16\); this ring takes \(3, 1"),
        (torch.zeros(3, 40, 64), 20, "window=20 needs a ring of at least 59 tokens"),
        (torch.zeros(3, 1, 64, requires_grad=True), 20, "x requires a gradient"),
    ],
)
def test_what_does_not_fit_frozen_blocks_is_named_before_anything_is_written(
    frozen, x, capacity, message
):
    rings = frozen.make_rings(3, capacity)
    with pytest.raises(ValueError, match=message):
        frozen.decode(x, rings)
    assert all(ring.lengths.tolist() == [0, 0, 0] for ring in rings)


def test_rings_and_angles_that_do_not_fit_are_named(frozen):
    x, rings = torch.zeros(3, 1, 64), frozen.make_rings(3, 20)
    with pytest.raises(ValueError, match="1 rings are given; there are 2 blocks"):
        frozen.decode(x, rings[:1])
    with pytest.raises(ValueError, match="rope: cos has shape"):
        frozen.decode(x, rings, rope=rope_angles(torch.zeros(3, 1, dtype=torch.int64), 8))
    with pytest.raises(ValueError, match=r"blocks are torch.float64 on cpu"):
        native.NativeBlocks(make_blocks(1, **SIZES[0]), BlockShape(4, 4, 16, 0.25, window=20))
    holding_tokens = native.NativeBlocks(
        *absorbed(to(torch.float32, make_blocks(2, **SIZES[0])), BlockShape(4, 4, 16, 0.25, 20))
    )
    with pytest.raises(ValueError, match="shared=False must be True"):
        holding_tokens.decode(x, [RingCache(3, 20, 1, 64, order="column") for _ in range(2)])
    with pytest.raises(ValueError, match="rotated keys cannot be kept as tokens"):
        holding_tokens.decode(
            x, holding_tokens.make_rings(3, 20),
            rope=rope_angles(torch.zeros(3, 1, dtype=torch.int64), 64),
        )  # fmt: skip


def test_nan_in_one_environment_stays_there():
    shape = BlockShape(4, 4, 16, 0.25, window=20)
    frozen = native.NativeBlocks(to(torch.float32, make_blocks(2, **SIZES[0])), shape)
    x = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(1))
    clean, dirty = (frozen.make_rings(3, 20) for _ in range(2))
    for step, kv in itertools.product(range(5), [x]):
        expected = frozen.decode(kv, clean)
        poisoned = kv.clone()
        if step == 2:
            poisoned[1] = float("nan")
        actual = frozen.decode(poisoned, dirty)
        assert torch.equal(actual[[0, 2]], expected[[0, 2]])
        assert actual[1].isnan().all() == (step >= 2)
