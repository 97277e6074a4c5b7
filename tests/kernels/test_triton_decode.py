"""The decode kernel against the reference: sessions of many steps, races, and bytes touched."""

import itertools

import pytest
import torch

from tests.kernels.tolerance import assert_as_exact_as_plain

pytest.importorskip("triton")

from fastad_kernels import (
    RingCache,
    alibi_slopes,
    apply_rope,
    decode_attention,
    reference,
    rope_angles,
)
from fastad_kernels.quantization import output_error_bound
from fastad_kernels.triton import decode_ops
from fastad_kernels.triton.tiles import Tile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"

F16, BF16, F32, F64, I8 = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8,
)  # fmt: skip

# New tokens, splits, (query heads, key/value heads), head dim, positions, dtype, storage, spare.
SESSIONS = [
    (1, 1, (4, 4), 16, "none", F32, F32, 0),
    (1, 2, (4, 2), 16, "rope", F64, F64, 5),
    (1, 3, (4, 4), 32, "alibi", BF16, BF16, 0),
    (1, 4, (2, 1), 64, "rope", F16, F16, 3),
    (1, 1, (4, 2), 16, "rope", BF16, F32, 0),
    (3, 1, (4, 1), 16, "alibi", F64, F64, 0),
    (3, 2, (6, 3), 16, "rope", BF16, BF16, 7),
    (3, 3, (8, 8), 32, "none", F32, F32, 0),
    (3, 4, (4, 2), 16, "rope", F32, I8, 0),
    (3, 1, (2, 2), 128, "alibi", F16, I8, 4),
    (3, 2, (3, 3), 64, "alibi", F32, BF16, 0),
    (3, 1, (8, 8), 16, "rope", F16, F16, 1),
]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 keys, so that short windows have several, and splits are not empty."""
    if INTERPRETED:
        monkeypatch.setattr(decode_ops, "find_tile", lambda *_: Tile(16, 4))


def poisoned_ring(batch, capacity, heads, dim, storage):
    ring = RingCache(batch, capacity, heads, dim, dtype=storage, device=DEVICE, order="token")
    poison(ring, torch.ones(batch, dtype=torch.bool))
    return ring


def poison(ring, rows):
    """Every slot of these environments holds NaN, as codes or as scales."""
    for x in (ring.keys, ring.values, ring.key_scales, ring.value_scales):
        if x is not None and x.is_floating_point():
            x[rows.to(x.device)] = float("nan")


def random_tokens(shape, heads, dtype, generator):
    batch, num_new, dim = shape
    return [
        torch.randn(batch, num_new, count, dim, generator=generator).to(DEVICE, dtype)
        for count in (heads[0], heads[1], heads[1])
    ]


def kernel_step(q, k, v, ring, *, window, slopes=None, rope=None, splits=0):
    cos, sin = (None, None) if rope is None else rope
    out = decode_ops.decode_attention_op(
        q, k, v, ring.keys, ring.values, ring.key_scales, ring.value_scales, ring.lengths,
        slopes, cos, sin, window, q.shape[-1] ** -0.5, splits,
    )  # fmt: skip
    ring.advance(q.shape[1])
    return out


def reference_step(q, k, v, ring, dtype, *, window, slopes=None, rope=None, order=0):
    """Plain PyTorch; `order` moves the features, so that sums over them are rounded differently."""
    scale = q.shape[-1] ** -0.5
    if rope is not None:
        q, k = (apply_rope(x.to(dtype), *rope) for x in (q, k))
    q, k, v = (x.to(dtype).roll(order, -1) for x in (q, k, v))
    return reference.decode_attention(
        q, k, v, ring, window=window, scale=scale, alibi_slopes=slopes, rope=None
    ).roll(-order, -1)


class Session:
    """The same steps by the kernel, by plain PyTorch in several orders, and in float64."""

    ORDERS = (1, 3, 6, 11)  # none like that of the exact result: what is float64 has errors, too

    def __init__(self, batch, capacity, heads, dim, dtype, storage=None):
        storage = storage or dtype
        self.dtype = dtype
        # Storage narrower than the tokens is part of what is asked for, also of the exact result.
        exact = storage if storage.itemsize < dtype.itemsize else F64
        # Plain PyTorch in float64 is another draw of rounding if its keys are in other slots.
        slots = [capacity, *[capacity + 5 * (dtype == F64)] * len(self.ORDERS), capacity]
        dtypes = [storage] * (1 + len(self.ORDERS)) + [exact]
        self.rings = [
            poisoned_ring(batch, *sizes)
            for sizes in zip(slots, [heads] * 6, [dim] * 6, dtypes, strict=True)
        ]
        self.outputs = []

    def step(self, q, k, v, *, has_rope=False, splits=0, **settings):
        ropes = [None, None]
        if has_rope:
            positions = self.rings[0].new_positions(q.shape[1])
            angles = F64 if self.dtype == F64 else F32
            ropes = [rope_angles(positions, q.shape[-1], dtype=x) for x in (angles, F64)]
        ours, *plain, exact = self.rings
        self.outputs.append((
            kernel_step(q, k, v, ours, rope=ropes[0], splits=splits, **settings),
            *(
                reference_step(q, k, v, ring, self.dtype, rope=ropes[0], order=order, **settings)
                for ring, order in zip(plain, self.ORDERS, strict=True)
            ),
            reference_step(q, k, v, exact, F64, rope=ropes[1], **settings),
        ))  # fmt: skip

    def check(self):
        actual, *plain, exact = (torch.cat(x, dim=1) for x in zip(*self.outputs, strict=True))
        assert all(torch.equal(ring.lengths, self.rings[0].lengths) for ring in self.rings)
        assert_as_exact_as_plain(actual, plain, exact)


@pytest.mark.parametrize("session", SESSIONS, ids=lambda s: "-".join(map(str, s)))
@pytest.mark.usefixtures("small_blocks")
def test_a_session_with_wraps_and_resets_is_as_exact_as_plain_pytorch(session):
    num_new, splits, heads, dim, scheme, dtype, storage, spare = session
    batch, window = 2, 9 if num_new == 1 else 11
    capacity = window + num_new - 1 + spare
    generator = torch.Generator().manual_seed(0)
    session = Session(batch, capacity, heads[1], dim, dtype, storage)
    slopes = alibi_slopes(heads[0], device=torch.device(DEVICE)) if scheme == "alibi" else None
    num_steps = -(-(3 * capacity + 2) // num_new)
    for step in range(num_steps):
        if step in (num_steps // 3, num_steps // 3 + 2):
            rows = torch.tensor([True, False])
            for ring in session.rings:
                ring.reset(rows.to(DEVICE))
                poison(ring, rows)
        tokens = random_tokens((batch, num_new, dim), heads, dtype, generator)
        session.step(
            *tokens, window=window, slopes=slopes, has_rope=scheme == "rope", splits=splits
        )
    assert session.rings[0].lengths[1] > 3 * capacity
    session.check()


@pytest.mark.parametrize("splits", [1, 2])
def test_blocks_of_full_size_agree_with_ragged_lengths(splits):
    """Lengths 0, 3, 40 and more than the ring, with the tile sizes of the table."""
    heads, dim, window, capacity = (4, 4), 16, 150, 152
    generator = torch.Generator().manual_seed(1)
    session = Session(4, capacity, heads[1], dim, F32)
    prompt = random_tokens((4, 400, dim), heads, F32, generator)[1:]
    for ring, order in zip(session.rings, (0, *Session.ORDERS, 0), strict=True):
        for start in range(0, 400, 50):
            ring.append(*(x[:, start : start + 50].roll(order, -1) for x in prompt))
        ring.lengths.copy_(torch.tensor([0, 3, 40, 400]))
        ring.lockstep = None
    session.step(*random_tokens((4, 3, dim), heads, F32, generator), window=window, splits=splits)
    session.check()
    torch.testing.assert_close(
        session.rings[0].keys.double(), session.rings[-1].keys, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("num_new", "heads"), [(16, (4, 2)), (40, (4, 4)), (9, (32, 2)), (0, (4, 4))]
)
def test_prompts_of_any_length_are_appended_in_chunks(num_new, heads):
    dim, window = 16, 21
    generator = torch.Generator().manual_seed(2)
    session = Session(2, window + max(num_new, 1) - 1, heads[1], dim, F32)
    for length in (num_new, 1):
        tokens = random_tokens((2, length, dim), heads, F32, generator)
        session.step(*tokens, window=window, has_rope=True)
    assert session.rings[0].lengths.tolist() == [num_new + 1] * 2
    session.check()


@pytest.mark.parametrize("angles", ["one row for all", "no batch dimension"])
def test_rope_angles_may_be_shared_by_all_environments(angles):
    generator = torch.Generator().manual_seed(3)
    rope = rope_angles(torch.arange(2, device=DEVICE), 16)
    if angles == "one row for all":
        rope = tuple(x[None] for x in rope)
    step = random_tokens((3, 2, 16), (2, 2), F32, generator)
    outputs = [
        decode_attention(*step, poisoned_ring(3, 8, 2, 16, F32), window=7, rope=rope, impl=impl)
        for impl in ("triton", "reference")
    ]
    torch.testing.assert_close(*outputs)


def test_queries_keys_and_values_may_be_slices_of_one_projection():
    generator = torch.Generator().manual_seed(4)
    fused = torch.randn(2, 3, 3, 4, 16, generator=generator).to(DEVICE)
    step = fused.unbind(2)
    assert not step[0].is_contiguous()
    outputs = [
        decode_attention(*step, poisoned_ring(2, 8, 4, 16, F32), window=6, impl=impl)
        for impl in ("triton", "reference")
    ]
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_stored_codes_and_scales_are_those_of_the_reference(dtype):
    generator = torch.Generator().manual_seed(5)
    session = Session(2, 12, 2, 16, dtype, I8)
    for _ in range(5):
        step = random_tokens((2, 3, 16), (4, 2), dtype, generator)
        step[1][:, 0] = 0.0  # a row of zeros has the scale 0
        session.step(*step, window=10)
    session.check()
    for name in ("keys", "values", "key_scales", "value_scales"):
        ours, theirs = (getattr(session.rings[i], name) for i in (0, -1))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_small_values_survive_int8_storage_of_half_precision_tokens():
    """A weight times an int8 scale would be lost to float16's underflow at this size."""
    generator = torch.Generator().manual_seed(6)
    session = Session(1, 16, 2, 16, F16, I8)
    for _ in range(6):
        q, k, v = random_tokens((1, 2, 16), (2, 2), F16, generator)
        session.step(q, k, v * 1e-4, window=12)
    session.check()


def test_int8_storage_stays_within_the_derived_bound_of_fp32_storage():
    generator = torch.Generator().manual_seed(7)
    heads, dim, window = (2, 2), 32, 24
    codes, floats = (poisoned_ring(1, window, 2, dim, dtype) for dtype in (I8, F32))
    for _ in range(30):
        step = random_tokens((1, 1, dim), heads, F32, generator)
        actual = kernel_step(*step, codes, window=window)
        wanted = reference_step(*step, floats, F64, window=window)
        floats.lengths.copy_(codes.lengths)
    seen = slice(None)  # the ring is full, and the window is all of it
    for head in range(heads[0]):
        bound = output_error_bound(
            step[0][0, :, head], floats.values[0, seen, head], codes.key_scales[0, seen, head],
            codes.value_scales[0, seen, head], scale=dim**-0.5,
        )  # fmt: skip
        error = (actual[0, :, head].double() - wanted[0, :, head]).abs()
        assert (error <= bound + 1e-6).all()
        assert error.max() > 1e-4  # or the storage was not int8


def test_repeats_are_bitwise_equal(small_blocks):
    results = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(8)
        ring = poisoned_ring(2, 20, 2, 16, F32)
        for _ in range(8):
            step = random_tokens((2, 3, 16), (4, 2), F32, generator)
            out = kernel_step(*step, ring, window=18, splits=3)
        results.append(out)
    assert torch.equal(*results)


CHECKED = [
    pytest.param(splits, num_new, spare, storage, id=f"{splits}-{num_new}-{spare}-{storage}")
    for (splits, num_new), (spare, storage) in zip(
        itertools.product((1, 2, 4), (1, 3)),
        [(0, F32), (9, BF16), (0, I8), (0, F32), (9, F32), (0, BF16)],
        strict=True,
    )
]


@pytest.mark.skipif(not INTERPRETED, reason="addresses are checked in the interpreter")
@pytest.mark.parametrize(("splits", "num_new", "spare", "storage"), CHECKED)
@pytest.mark.usefixtures("small_blocks")
def test_steps_are_race_free_in_bounds_and_touch_each_live_byte_once(
    splits, num_new, spare, storage
):
    from fastad_kernels.testing.addresses import check_addresses

    heads, dim, window = (4, 2), 16, 14
    generator = torch.Generator().manual_seed(9)
    ring = poisoned_ring(3, window + num_new - 1 + spare, heads[1], dim, storage)
    ring.append(*(torch.zeros(3, num_new, heads[1], dim) for _ in range(2)))
    # Empty, filling, and about to wrap, then wrapping, within the steps.
    ring.lengths.copy_(torch.tensor([0, 7, 3 * ring.capacity - 2]))
    ring.lockstep = None
    row_bytes = heads[1] * (dim * storage.itemsize + (4 if storage == I8 else 0))
    for x in (ring.keys, ring.values, ring.key_scales, ring.value_scales):
        if x is not None:
            x.fill_(1)
    for _ in range(3):
        old = ring.lengths.tolist()
        step = random_tokens((3, num_new, dim), heads, F32, generator)
        rope = rope_angles(ring.new_positions(num_new), dim)
        slopes = alibi_slopes(heads[0])
        with check_addresses() as report:
            kernel_step(*step, ring, window=window, splits=splits, rope=rope, slopes=slopes)
        assert [launch.kernel for launch in report.launches] == (
            ["_decode_kernel"] + ["_combine_kernel"] * (splits > 1)
        )
        traffic = report.launches[0].traffic
        live = sum(min(length, window - 1) for length in old)
        for name in ("keys", "values"):
            # Where there are no scales, the kernel is given the ring in their place.
            single = f"p_{name.removesuffix('s')}_scales"
            together = [f"p_{name}", single] if storage == I8 else [f"p_{name}+{single}"]
            parts = [traffic[tensor] for tensor in together]
            read = sum(part.read.per_program for part in parts)
            written = sum(part.written.per_program for part in parts)
            assert read == live * row_bytes
            assert written == 3 * num_new * row_bytes


def test_slopes_may_lie_apart_in_memory():
    generator = torch.Generator().manual_seed(0)
    slopes = torch.tensor([0.5, -1.0, 0.25, -1.0, 0.125, -1.0, 1.0, -1.0], device=DEVICE)[::2]
    rings = [RingCache(2, 6, 4, 16, device=DEVICE, order="token") for _ in range(2)]
    for _ in range(8):
        q, k, v = (torch.randn(2, 1, 4, 16, generator=generator).to(DEVICE) for _ in range(3))
        expected, actual = (
            decode_attention(q, k, v, ring, window=6, alibi_slopes=slopes, impl=impl)
            for ring, impl in zip(rings, ("reference", "triton"), strict=True)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
