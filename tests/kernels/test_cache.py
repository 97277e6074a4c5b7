"""The ring cache: slots, wraps, resets, and decoding against the whole sequence."""

import pytest
import torch
from fastad_kernels import (
    RingCache,
    alibi_slopes,
    apply_rope,
    attention,
    decode_attention,
    rope_angles,
)

HEADS, KV_HEADS, DIM = 4, 2, 16


def tokens(length, *, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, length, heads, DIM, generator=generator)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def poisoned_cache(capacity, *, batch=3):
    cache = RingCache(batch, capacity, KV_HEADS, DIM)
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    return cache


def expected_outputs(q, k, v, window, scheme):
    """The specification: banded attention over the whole sequence, positions from 0."""
    if scheme == "rope":
        rope = rope_angles(torch.arange(q.shape[1]), DIM)
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    slopes = alibi_slopes(HEADS) if scheme == "alibi" else None
    return attention(q, k, v, window=window, alibi_slopes=slopes, impl="reference")


def decode(q, k, v, cache, window, scheme, impl):
    rope = rope_angles(cache.new_positions(q.shape[1]), DIM) if scheme == "rope" else None
    slopes = alibi_slopes(HEADS) if scheme == "alibi" else None
    return decode_attention(
        q, k, v, cache, window=window, alibi_slopes=slopes, rope=rope, impl=impl
    )


def test_a_token_lives_in_the_slot_of_its_position_modulo_capacity():
    cache = RingCache(1, 3, 1, 1)
    for value in range(5):
        cache.append(*(torch.full((1, 1, 1, 1), float(value)) for _ in range(2)))
    assert cache.keys[0, :, 0, 0].tolist() == [3.0, 4.0, 2.0]
    assert cache.slot_positions().tolist() == [[3, 4, 2]]
    assert cache.lengths.tolist() == [5]


def test_an_append_that_wraps_is_split_between_the_end_and_the_start():
    cache = RingCache(1, 4, 1, 1)
    for values in ([0.0, 1.0, 2.0], [3.0, 4.0, 5.0]):
        new = torch.tensor(values).view(1, 3, 1, 1)
        cache.append(new, new)
    assert cache.keys[0, :, 0, 0].tolist() == [4.0, 5.0, 2.0, 3.0]


def test_unwritten_slots_have_negative_positions():
    cache = RingCache(2, 4, 1, 1)
    cache.append(*torch.zeros(2, 2, 2, 1, 1))
    assert (cache.slot_positions() >= 0).tolist() == [[True, True, False, False]] * 2


def test_a_reset_of_some_clears_those_alone():
    cache = RingCache(3, 4, 1, 1)
    cache.append(*torch.zeros(2, 3, 2, 1, 1))
    cache.reset(torch.tensor([False, True, False]))
    assert cache.lengths.tolist() == [2, 0, 2]
    assert cache.lockstep is None
    cache.reset()
    assert (cache.lengths.tolist(), cache.lockstep) == ([0, 0, 0], 0)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("scheme", ["none", "rope", "alibi"])
@pytest.mark.parametrize("per_step", [1, 3])
@pytest.mark.parametrize("spare", [0, 5])
def test_decoding_equals_the_whole_sequence_over_three_wraps(impl, scheme, per_step, spare):
    window = 12
    q, k, v = tokens(48)
    cache = poisoned_cache(window + per_step - 1 + spare)
    out = torch.cat(
        [
            decode(*(x[:, t : t + per_step] for x in (q, k, v)), cache, window, scheme, impl)
            for t in range(0, 48, per_step)
        ],
        dim=1,
    )
    torch.testing.assert_close(out, expected_outputs(q, k, v, window, scheme), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("scheme", ["none", "rope", "alibi"])
@pytest.mark.parametrize("per_step", [1, 3])
def test_ragged_environments_are_exact_after_staggered_resets(impl, scheme, per_step):
    window, length = 12, 60
    q, k, v = tokens(length)
    cache = poisoned_cache(window + per_step - 1)
    began = torch.zeros(3, dtype=torch.int64)  # where each environment's context begins
    for t in range(0, length, per_step):
        for row, at in ((1, 21), (2, 30), (1, 33)):
            if t == at:
                mask = torch.arange(3) == row
                cache.reset(mask)
                cache.keys[mask] = float("nan")
                cache.values[mask] = float("nan")
                began[row] = t
        out = decode(*(x[:, t : t + per_step] for x in (q, k, v)), cache, window, scheme, impl)
        for row in range(3):
            context = (x[row : row + 1, began[row] : t + per_step] for x in (q, k, v))
            expected = expected_outputs(*context, window, scheme)[:, -per_step:]
            torch.testing.assert_close(out[row : row + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("per_step", [1, 3])
def test_what_is_taken_back_leaves_no_trace(impl, dtype, per_step):
    window, num_steps = 12, 40
    together, *alone = (
        RingCache(batch, window + per_step - 1, KV_HEADS, DIM, dtype=dtype)
        for batch in (3, 1, 1, 1)
    )
    q, k, v = tokens(num_steps * per_step)
    for step in range(num_steps):
        new = [x[:, step * per_step : (step + 1) * per_step] for x in (q, k, v)]
        before = together.lengths.clone()
        idle = step % torch.tensor([50, 2, 3]) == 1  # one of them at the second step alone
        out = decode(*new, together, window, "none", impl)
        if idle.any():
            together.take_back(idle, before)
        for row in (~idle).nonzero()[:, 0].tolist():
            each = [x[row : row + 1] for x in new]
            expected = decode(*each, alone[row], window, "none", impl)
            torch.testing.assert_close(out[row : row + 1], expected, rtol=1e-5, atol=1e-5)
    assert together.lengths.tolist() == [39 * per_step, 20 * per_step, 27 * per_step]


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("prompt", [0, 1, 11, 12, 13])
def test_a_prompt_of_any_length_may_be_appended_at_once(impl, prompt):
    window = 12
    q, k, v = tokens(prompt + 4)
    cache = poisoned_cache(window + max(prompt, 1) - 1)
    pieces = [(0, prompt)] * (prompt > 0) + [(t, t + 1) for t in range(prompt, prompt + 4)]
    out = torch.cat(
        [decode(*(x[:, a:b] for x in (q, k, v)), cache, window, "rope", impl) for a, b in pieces],
        dim=1,
    )
    torch.testing.assert_close(out, expected_outputs(q, k, v, window, "rope"), rtol=1e-5, atol=1e-5)


def test_both_layouts_of_the_storage_give_the_same():
    q, k, v = tokens(20)
    heads_first, tokens_first = (
        RingCache(3, 8, KV_HEADS, DIM, order=order) for order in ("head", "token")
    )
    assert tokens_first.keys.is_contiguous()
    assert not heads_first.keys.is_contiguous()
    for t in range(20):
        step = [x[:, t : t + 1] for x in (q, k, v)]
        one, other = (
            decode(*step, cache, 8, "none", "sdpa") for cache in (heads_first, tokens_first)
        )
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_ring_too_small_for_the_window_is_refused():
    cache = RingCache(3, 96, KV_HEADS, DIM)
    message = r"window=96 needs a ring of at least 98 tokens \(3 per step\); capacity is 96"
    with pytest.raises(ValueError, match=message):
        decode_attention(*tokens(3), cache, window=96)


def test_keys_that_do_not_fit_the_ring_are_refused_before_anything_is_written():
    cache = RingCache(2, 8, KV_HEADS, DIM)
    with pytest.raises(ValueError, match=r"this ring takes \(2, 1, 2, 16\)"):
        decode_attention(*tokens(1), cache, window=8)
    assert cache.lengths.tolist() == [0, 0]


def test_the_order_of_memory_follows_the_device_or_the_argument():
    assert not RingCache(2, 4, 3, 16).keys.is_contiguous()  # "head" on a CPU
    for dtype in (torch.float32, torch.int8):
        ring = RingCache(2, 4, 3, 16, order="token", dtype=dtype)
        assert ring.keys.shape == (2, 4, 3, 16)
        assert ring.keys.is_contiguous()
        ring = RingCache(2, 4, 3, 16, order="head", dtype=dtype)
        assert ring.values.shape == (2, 4, 3, 16)
        assert ring.values.transpose(1, 2).is_contiguous()


def test_int8_storage_reads_back_what_was_appended_to_half_a_scale():
    ring = RingCache(1, 4, 1, 2, dtype=torch.int8)
    k = torch.tensor([[127.0, 3.4], [254.0, 3.4], [0.0, 0.0]]).view(1, 3, 1, 2)
    ring.append(k, -k)
    assert ring.key_scales.shape == (1, 4, 1)
    keys, values = ring.read(3, torch.float16)
    assert keys.dtype == torch.float16
    assert keys[0, :, 0].tolist() == [[127.0, 3.0], [254.0, 4.0], [0.0, 0.0]]
    # Halves go up, so that -1.7 scales become -2, as 1.7 become 2.
    assert values[0, :, 0].tolist() == [[-127.0, -3.0], [-254.0, -4.0], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_lockstep_and_scattered_appends_store_the_same(dtype):
    rings = [RingCache(3, 5, KV_HEADS, DIM, dtype=dtype) for _ in range(2)]
    rings[1].lockstep = None
    for seed in range(4):
        _, k, v = tokens(3, seed=seed)
        for ring in rings:
            ring.append(k, v)
    for x, y in zip(*(ring.read(5, torch.float32) for ring in rings), strict=True):
        assert torch.equal(x, y)
    assert (rings[0].lockstep, rings[1].lockstep) == (12, None)


def test_advance_notes_what_a_kernel_appended_where_the_length_is_known():
    ring = RingCache(2, 4, 1, 1)
    ring.advance(3)
    assert ring.lockstep == 3
    ring.reset(torch.tensor([True, False]))
    ring.advance(3)
    assert ring.lockstep is None


def test_reading_storage_of_the_same_dtype_copies_nothing():
    ring = RingCache(2, 4, 1, 16)
    keys, values = ring.read(3, torch.float32)
    assert keys.shape == (2, 3, 1, 16)
    assert keys.data_ptr() == ring.keys.data_ptr()
    assert values.data_ptr() == ring.values.data_ptr()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"capacity": 0}, "capacity=0 must be at least 1"),
        ({"num_kv_heads": 0}, "num_kv_heads=0 must be at least 1"),
        ({"head_dim": -1}, "head_dim=-1 must be at least 1"),
        ({"dtype": torch.int32}, "dtype=torch.int32 must be one of torch.float32"),
        ({"order": "batch"}, "order='batch' must be one of token, head, column or None"),
    ],
)
def test_a_ring_that_cannot_be_is_refused(changes, message):
    arguments = {"batch_size": 2, "capacity": 4, "num_kv_heads": 1, "head_dim": 16}
    with pytest.raises(ValueError, match=message):
        RingCache(**(arguments | changes))
