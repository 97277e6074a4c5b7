"""The decode operator: registration, compilation, no host synchronisation, plans, bad input."""

import math

import pytest
import torch

pytest.importorskip("triton")

from fastad_kernels import RingCache, decode_attention, reference, rope_angles
from fastad_kernels.testing.host_sync import forbid_host_sync
from fastad_kernels.triton import decode_ops
from fastad_kernels.triton.decode_ops import (
    choose_num_splits,
    chunk_length,
    decode_attention_op,
    find_element_size,
    plan_decode,
)
from fastad_kernels.triton.tiles import Tile, find_tile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, HEADS, KV_HEADS, DIM, WINDOW = 2, 4, 2, 16, 8


def make_ring(*, capacity=10, dtype=torch.float32, order="token", batch=BATCH, dim=DIM):
    return RingCache(batch, capacity, KV_HEADS, dim, dtype=dtype, device=DEVICE, order=order)


def make_step(*, num_new=2, batch=BATCH, dim=DIM, seed=0, dtype=torch.float32, heads=KV_HEADS):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, num_new, count, dim, generator=generator).to(DEVICE, dtype)
        for count in (HEADS, heads, heads)
    ]


def op_arguments(ring, step, *, slopes=None, rope=(None, None), splits=1):
    return (
        *step, ring.keys, ring.values, ring.key_scales, ring.value_scales, ring.lengths, slopes,
        *rope, WINDOW, 0.25, splits,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("splits", [1, 2])
def test_the_operator_passes_pytorchs_own_checks(dtype, splits):
    ring, step = make_ring(dtype=dtype), make_step()
    rope = rope_angles(ring.new_positions(2), DIM)
    slopes = torch.ones(HEADS, device=DEVICE)
    results = torch.library.opcheck(
        decode_attention_op, op_arguments(ring, step, slopes=slopes, rope=rope, splits=splits)
    )
    assert set(results.values()) == {"SUCCESS"}


def test_compiled_steps_equal_eager_ones_without_a_graph_break():
    def step_fn(q, k, v, ring):
        rope = rope_angles(ring.new_positions(q.shape[1]), DIM)
        out = decode_attention(q, k, v, ring, window=WINDOW, rope=rope, impl="triton")
        return out + 1.0

    compiled = torch.compile(step_fn, fullgraph=True, backend="aot_eager")
    rings = make_ring(), make_ring()
    for seed in range(4):
        step = make_step(seed=seed)
        outputs = step_fn(*step, rings[0]), compiled(*step, rings[1])
        torch.testing.assert_close(*outputs, rtol=0, atol=0)
    assert torch.equal(rings[0].keys, rings[1].keys)
    assert rings[1].lengths.tolist() == [8, 8]
    assert rings[1].lockstep == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("splits", [0, 3])
def test_a_step_never_waits_for_the_device(monkeypatch, dtype, splits):
    if splits:
        monkeypatch.setattr(decode_ops, "choose_num_splits", lambda *_: splits)
    ring, step = make_ring(dtype=dtype), make_step()
    ring.lockstep = None
    slopes = torch.ones(HEADS, device=DEVICE)
    launched = []
    kernel = decode_ops._decode_kernel
    monkeypatch.setattr(decode_ops, "_decode_kernel", _Unlaunched(kernel, launched))
    monkeypatch.setattr(decode_ops, "_combine_kernel", _Unlaunched(None, launched))
    with forbid_host_sync():
        rope = rope_angles(ring.new_positions(2), DIM)
        decode_attention(*step, ring, window=WINDOW, rope=rope, alibi_slopes=slopes, impl="triton")
    assert len(launched) == (2 if splits else 1)


class _Unlaunched:
    """A kernel that is not run: the interpreter itself copies tensors to NumPy."""

    def __init__(self, kernel, launched):
        self.kernel, self.launched = kernel, launched

    def __getitem__(self, grid):
        assert all(isinstance(size, int) for size in grid)
        return lambda *args, **kwargs: self.launched.append(grid)


def test_the_lockstep_of_the_ring_follows_the_kernel():
    rings = [make_ring(), make_ring()]
    for ring, impl in zip(rings, ("triton", "reference"), strict=True):
        for _ in range(3):
            decode_attention(*make_step(), ring, window=WINDOW, impl=impl)
    assert rings[0].lockstep == rings[1].lockstep == 6
    # What follows on another path finds the ring as it should be.
    outputs = [decode_attention(*make_step(), ring, window=WINDOW, impl="sdpa") for ring in rings]
    torch.testing.assert_close(*outputs)


def test_several_tiles_of_heads_advance_the_lengths_once():
    ring = RingCache(2, 8, 8, 32, device=DEVICE, order="token")
    q = torch.zeros(2, 1, 8, 32, device=DEVICE)
    for splits in (1, 2):
        before = ring.lengths.clone()
        decode_attention_op(*op_arguments(ring, (q, q, q), splits=splits))
        assert torch.equal(ring.lengths, before + 1)


def plan(shape=(64, 3, 4, 16), kv_heads=4, **settings):
    defaults = {
        "window": 600, "element_size": 2, "architecture": "sm_90", "num_multiprocessors": 132,
    }  # fmt: skip
    return plan_decode(shape, kv_heads, **(defaults | settings))


@pytest.mark.parametrize(
    ("shape", "kv_heads", "element_size", "heads", "rows"),
    [
        ((64, 3, 4, 16), 4, 2, 4, 16),  # all heads of the paper's model in one tile
        ((64, 1, 8, 64), 8, 2, 2, 16),  # 128 features wide at most
        ((64, 1, 8, 32), 8, 4, 2, 16),  # half of that with 4 bytes
        ((64, 1, 2, 128), 2, 4, 1, 16),
        ((64, 3, 6, 16), 6, 2, 2, 16),  # the largest power of two that divides 6
        ((64, 1, 32, 16), 2, 2, 2, 32),  # 16 query heads per key/value head
        ((64, 16, 8, 16), 8, 2, 2, 32),  # at most 32 rows
        ((64, 16, 8, 16), 8, 4, 1, 16),  # half of that with 4 bytes
    ],
)
def test_a_tile_has_as_many_heads_as_fit(shape, kv_heads, element_size, heads, rows):
    made = plan(shape, kv_heads, element_size=element_size)
    assert (made.heads, made.rows, made.num_tiles) == (heads, rows, kv_heads // heads)


@pytest.mark.parametrize(
    ("kv_heads", "element_size", "num_warps"),
    [(8, 2, 4), (4, 2, 4), (2, 2, 2), (3, 2, 1), (8, 1, 4), (4, 1, 2), (2, 1, 1), (4, 4, 4)],
)
def test_narrow_tiles_take_fewer_warps(kv_heads, element_size, num_warps):
    made = plan((64, 1, kv_heads, 16), kv_heads, element_size=element_size)
    assert made.tile.num_warps == num_warps


@pytest.mark.parametrize(
    ("window", "programs", "splits"),
    [
        (600, 264, 1),  # two programs for each of 132 multiprocessors already
        (600, 132, 2),
        (16_000, 64, 5),  # ceil(264 / 64)
        (16_000, 1, 32),  # the most
        (600, 1, 5),  # 599 earlier tokens make 5 pairs of blocks of 64
        (1, 1, 1),
    ],
)
def test_splits_fill_the_device_but_not_with_crumbs(window, programs, splits):
    assert choose_num_splits(window, programs, 132, 64) == splits


def test_chunks_of_new_tokens_fit_the_rows_of_a_tile():
    assert [chunk_length(group, 2) for group in (1, 2, 4, 32, 100)] == [16, 16, 8, 1, 1]
    assert [chunk_length(group, 4) for group in (1, 2, 4, 32, 100)] == [16, 8, 4, 1, 1]


def test_tiles_go_by_the_wider_of_queries_and_storage():
    def sizes(q, keys):
        return find_element_size(torch.zeros(1, dtype=q), torch.zeros(1, dtype=keys))

    f16, f32, f64, i8 = torch.float16, torch.float32, torch.float64, torch.int8
    pairs = [(f16, i8), (f16, f16), (f16, f32), (f32, f16), (f32, i8), (f64, f64)]
    assert [sizes(*pair) for pair in pairs] == [1, 2, 4, 4, 4, 4]


def test_int8_storage_has_tiles_of_its_own_only_beside_float32_queries():
    stages = [plan((64, 1, 4, 128), element_size=4, int8=x).tile.num_stages for x in (False, True)]
    assert stages == [2, 1]
    assert plan(element_size=1, int8=True) == plan(element_size=1)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_every_head_dim_has_a_decode_tile(architecture):
    for head_dim in (16, 32, 64, 128):
        for element_size in (1, 2, 4):
            assert isinstance(find_tile(architecture, head_dim, "decode", element_size), Tile)


BAD = [
    ({"window": 0}, "window=0 must be at least 1"),
    ({"window": None}, "window=None must be an integer"),
    ({"window": 10}, r"at least 11 tokens \(2 per step\); capacity is 10"),
    ({"step": make_step(batch=3)}, r"k has shape \(3, 2, 2, 16\); this ring takes \(2, 2, 2, 16\)"),
    ({"step": make_step(heads=4)}, r"k has shape \(2, 2, 4, 16\); this ring takes \(2, 2, 2, 16\)"),
    ({"step": make_step(dim=32)}, r"this ring takes \(2, 2, 2, 16\)"),
    ({"step": [x.to("meta") for x in make_step()]}, "q is on meta; the ring is on"),
    ({"step": [x.requires_grad_() for x in make_step()]}, "q requires a gradient"),
    ({"step": [x.mT.contiguous().mT for x in make_step()]}, "q has stride 4 along its last"),
    ({"step": make_step(dim=24), "ring": make_ring(dim=24)}, "takes 16, 32, 64, 128"),
    ({"ring": make_ring(order="head")}, r"RingCache\(..., order='token'\)"),
    ({"scale": math.inf}, "scale=inf must be positive and finite"),
    ({"alibi_slopes": torch.ones(3)}, r"alibi_slopes \(3,\) must be \(4,\)"),
    ({"rope": rope_angles(torch.zeros(2, 3), DIM)},
     r"cos has shape \(2, 3, 8\); it must be \(2, 2, 8\) or \(1, 2, 8\)"),
    ({"rope": rope_angles(torch.zeros(3, 2), DIM)}, r"cos has shape \(3, 2, 8\)"),
    ({"rope": rope_angles(torch.zeros(2, 2), 32)}, r"cos has shape \(2, 2, 16\)"),
    ({"rope": (torch.zeros(2, 2, 8), torch.zeros(1, 2, 8))}, "must have the same shape"),
    ({"rope": (torch.zeros(2, 2, 8), torch.zeros(2, 2, 8, device="meta"))}, "sin is on meta"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named_before_anything_is_written(changes, message):
    arguments = {"step": make_step(), "ring": make_ring(), "window": WINDOW} | changes
    step, ring = arguments.pop("step"), arguments.pop("ring")
    with pytest.raises(ValueError, match=message):
        decode_attention(*step, ring, **arguments, impl="triton")
    assert ring.lengths.tolist() == [0, 0]
    assert ring.lockstep == 0


def test_tokens_that_need_a_gradient_may_be_decoded_under_no_grad():
    step = [x.requires_grad_() for x in make_step()]
    with torch.no_grad():
        out = decode_attention(*step, make_ring(), window=WINDOW, impl="triton")
        expected = reference.decode_attention(
            *step, make_ring(), window=WINDOW, scale=0.25, alibi_slopes=None, rope=None
        )
    torch.testing.assert_close(out, expected)
