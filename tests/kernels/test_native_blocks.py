"""Decoding by the C++ kernels: whole frozen blocks in one call."""

import itertools

import pytest
import torch
from fastad_kernels import (
    Affine,
    BlockShape,
    BlockWeights,
    RingCache,
    alibi_slopes,
    native,
    rope_angles,
)
from fastad_kernels.blocks import absorb, decode_blocks

from tests.kernels.pairwise import pairwise
from tests.kernels.tolerance import assert_as_exact_as_plain

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)

ORDERS = (0, 1, 2, 3)  # places by which features are moved before plain PyTorch sums over them


def make_blocks(count, *, width, heads, kv_heads, dim, hidden, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def affine(out, size):
        weight = torch.randn(out, size, generator=generator, dtype=dtype) / size**0.5
        return Affine(weight, 0.1 * torch.randn(out, generator=generator, dtype=dtype))

    def norm():
        shift = 0.1 * torch.randn(2, width, generator=generator, dtype=dtype)
        return Affine(1 + shift[0], shift[1])

    return [
        BlockWeights(
            norm(), affine(heads * dim, width), affine(2 * kv_heads * dim, width),
            affine(width, heads * dim), norm(), affine(hidden, width), affine(width, hidden),
        )
        for _ in range(count)
    ]  # fmt: skip


def to(dtype, blocks):
    return [
        BlockWeights(
            *(None if a is None else Affine(a.weight.to(dtype), a.bias.to(dtype)) for a in block)
        )
        for block in blocks
    ]


def reordered(blocks, shape, order):
    """The same function of x, and results, whose features have been moved by `order` places."""

    def move(affine, *axes):
        weight, bias = affine
        return Affine(weight.roll(order, axes), bias.roll(order, 0) if 0 in axes else bias)

    def move_block(norm, query, key_value, out, mlp_norm, mlp_in, mlp_out):
        query, out = move(query, 1), move(out, 0)
        if key_value is None:  # what a head gets, and gives, are features of tokens
            heads = (shape.num_heads, shape.dim)
            query = Affine(*(y.unflatten(0, heads).roll(order, 1).flatten(0, 1) for y in query))
            out = Affine(out.weight.unflatten(1, heads).roll(order, 2).flatten(1), out.bias)
        else:
            key_value = move(key_value, 1)
        return BlockWeights(
            move(norm, 0), query, key_value, out, move(mlp_norm, 0), move(mlp_in, 1),
            move(mlp_out, 0),
        )  # fmt: skip

    return [move_block(*block) for block in blocks]


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


FACTORS = {
    "num_new": (1, 3),
    "scheme": (
        ("none", False), ("none", True), ("alibi", False), ("alibi", True), ("rope", False),
    ),
    "pre_norm": (True, False),
    "sizes": SIZES,
}  # fmt: skip


def cases():
    """All of them; slow are those without which every pair of settings is met all the same."""
    quick = pairwise(**FACTORS)
    for values in itertools.product(*FACTORS.values()):
        case = dict(zip(FACTORS, values, strict=True))
        num_new, (scheme, tokens), pre_norm, sizes = values
        yield pytest.param(
            num_new, scheme, tokens, pre_norm, sizes,
            id=f"{num_new}-{scheme}-{tokens}-{pre_norm}-width {sizes['width']}",
            marks=[] if case in quick else [pytest.mark.slow],
        )  # fmt: skip


@pytest.mark.parametrize(("num_new", "scheme", "tokens", "pre_norm", "sizes"), list(cases()))
@torch.no_grad()
def test_native_blocks_equal_the_specification_up_to_rounding_through_resets(
    num_new, scheme, tokens, pre_norm, sizes
):
    """Ragged environments, 35 of them: more than go through a block together."""
    batch, window = 35, 20
    heads, kv_heads, dim = (sizes[name] for name in ("heads", "kv_heads", "dim"))
    shape = BlockShape(heads, kv_heads, dim, 1.1 * dim**-0.5, window, pre_norm)
    blocks = make_blocks(2, **sizes)
    slopes = alibi_slopes(heads) if scheme == "alibi" else None
    if tokens:
        blocks, shape = absorbed(blocks, shape)
    blocks = to(torch.float32, blocks)
    frozen = native.NativeBlocks(blocks, shape, alibi_slopes=slopes)
    capacity = window + num_new - 1
    rings = frozen.make_rings(batch, capacity)
    for ring in rings:
        ring.keys.fill_(float("nan"))
        ring.values.fill_(float("nan"))
    # Plain PyTorch in several orders, then in float64.
    others = [
        (order, dtype, to(dtype, reordered(blocks, shape, order)),
         rings_for(blocks, shape, batch, capacity, dtype, holds_tokens=tokens))
        for order, dtype in (*((n, torch.float32) for n in ORDERS), (0, torch.float64))
    ]  # fmt: skip
    outputs = []
    generator = torch.Generator().manual_seed(1)
    for step in range(3 * window // num_new + 5):
        if step % 7 == 5:
            mask = torch.rand(batch, generator=generator) < 0.3
            for ring in itertools.chain(rings, *(other_rings for *_, other_rings in others)):
                ring.reset(mask)
            for ring in rings:
                ring.keys[mask] = float("nan")
                ring.values[mask] = float("nan")
        x = torch.randn(batch, num_new, sizes["width"], generator=generator)
        rope = None
        if scheme == "rope":
            rope = rope_angles(rings[0].new_positions(num_new), dim, dtype=torch.float64)
        plain = [
            decode_blocks(
                x.to(dtype).roll(order, -1), other_blocks, other_rings, shape, alibi_slopes=slopes,
                rope=None if rope is None else tuple(angle.to(dtype) for angle in rope),
            ).roll(-order, -1)
            for order, dtype, other_blocks, other_rings in others
        ]  # fmt: skip
        before = x.clone()
        outputs.append((frozen.decode(x, rings, rope=rope), *plain))
        assert torch.equal(x, before)
    actual, *plain, exact = map(torch.stack, zip(*outputs, strict=True))
    assert_as_exact_as_plain(actual, plain, exact)
    assert all(ring.lengths.equal(others[-1][-1][0].lengths) for ring in rings)


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
