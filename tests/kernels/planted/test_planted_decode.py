"""Bugs planted in decoding; its tests find each of them."""

import pytest

from tests.kernels.planted.planting import Mutation, assert_caught, parameters

pytest.importorskip("triton")

TESTS = "test_triton_decode.py"
FULL = "blocks_of_full_size"
RACES = "race_free"
EDGES, FAR = "test_edges.py", "test_far_apart.py"
MUTATIONS = [
    Mutation(
        "a lone token's window reaches one key too far", "decode.py",
        "first = tl.maximum(old - window + 1, 0)",
        "first = tl.maximum(old - window, 0)",
        TESTS, "chunks", slow=True,
    ),
    Mutation(
        "the last split reads the slots about to be overwritten", "decode.py",
        "num_old = (old - first).to(tl.int32)",
        "num_old = (old - first).to(tl.int32) + NUM_NEW",
        TESTS, f"{RACES} and 2-3", "read/write race", slow=True,
    ),
    Mutation(
        "a key is read that no new token sees", "decode.py",
        "first = tl.maximum(old - window + 1, 0)",
        "first = tl.maximum(old - window, 0)",
        TESTS, f"{RACES} and 1-3", slow=True,
    ),
    Mutation(
        "later tokens of a step see one key too few", "decode.py",
        "offset[None, :] >= b_first_seen[:, None]",
        "offset[None, :] > b_first_seen[:, None]",
        TESTS, FULL, slow=True,
    ),
    Mutation(
        "new tokens go one slot too far", "decode.py",
        "slot = ((old + new) % capacity).to(tl.int32)",
        "slot = ((old + new + 1) % capacity).to(tl.int32)",
        TESTS, FULL, slow=True,
    ),
    Mutation(
        "reading stops at the ring's end instead of wrapping", "decode.py",
        "slot = tl.where(slot >= capacity, slot - capacity, slot)",
        "slot = tl.minimum(slot, capacity - 1)",
        TESTS, FULL,
    ),
    Mutation(
        "the ring wraps one slot late", "decode.py",
        "slot = tl.where(slot >= capacity, slot - capacity, slot)",
        "slot = tl.where(slot > capacity, slot - capacity, slot)",
        TESTS, f"{RACES} and 1-1", "OutOfBoundsError", slow=True,
    ),
    Mutation(
        "slots behind the newest token are read", "decode.py",
        "slot = first_slot + tl.minimum(offset, end - 1)",
        "slot = first_slot + tl.minimum(offset, capacity - 1)",
        TESTS, "stored_codes or chunks", slow=True,
    ),
    Mutation(
        "the lengths stay behind", "decode.py",
        "tl.store(p_lengths + batch, old + NUM_NEW)",
        "tl.store(p_lengths + batch, old)",
        TESTS, "stored_codes or chunks", slow=True,
    ),
    Mutation(
        "the lengths advance twice where the band is split", "decode_ops.py",
        "elif not alone:",
        "if not alone:",
        "test_decode_ops.py", "advance_the_lengths_once", slow=True,
    ),
    Mutation(
        "every split stores and attends to the new tokens", "decode.py",
        "if split == 0:",
        "if split >= 0:",
        TESTS, f"{RACES} and 2-1", "write/write race", slow=True,
    ),
    Mutation(
        "splits are merged as if all had seen as much", "combine.py",
        "b_weight = tl.exp2(b_lse - b_max_new)",
        "b_weight = tl.exp2(b_lse - b_lse)",
        TESTS, FULL, slow=True,
    ),
    Mutation(
        "RoPE turns the other way", "decode.py",
        "tl.where(feature < D // 2, -b_partner, b_partner)",
        "tl.where(feature < D // 2, b_partner, -b_partner)",
        TESTS, "chunks", slow=True,
    ),
    Mutation(
        "keys take the int8 scale of the first head", "decode.py",
        "p_scale = slot[None, :] * NUM_KV_HEADS + row_head[:, None]",
        "p_scale = slot[None, :] * NUM_KV_HEADS + row_head[:, None] * 0",
        TESTS, "stored_codes",
    ),
    Mutation(
        "query heads take turns on key heads", "decode.py",
        "row_head = tl.minimum(row // (GROUP * NUM_NEW), HEADS - 1)",
        "row_head = row // NUM_NEW % HEADS",
        TESTS, "chunks", slow=True,
    ),
    Mutation(
        "new tokens lack ALiBi", "decode.py",
        "b_s += b_slope[:, None] * new.to(ACC)[None, :]",
        "b_s += 0.0",
        TESTS, "session and 128-alibi", slow=True,
    ),
    Mutation(
        "the scale lacks log2(e)", "decode.py",
        "(SCALE * LOG2_E)",
        "SCALE",
        TESTS, "chunks", count=2, slow=True,
    ),
    Mutation(
        "new values are read with the strides of the keys", "decode_ops.py",
        "*v.stride()[:3]", "*k.stride()[:3]",
        EDGES, "all_of_the_ring and triton", slow=True,
    ),
    Mutation(
        "the ring wraps one slot early", "decode.py",
        "slot = tl.where(slot >= capacity, slot - capacity, slot)",
        "slot = tl.where(slot >= capacity - 1, slot - capacity + 1, slot)",
        EDGES, "all_of_the_ring and triton", slow=True,
    ),
    Mutation(
        "a step longer than the window forgets what was before it", "decode.py",
        "first = tl.maximum(old - window + 1, 0)",
        "first = tl.maximum(old - window + 1 + NUM_NEW, 0)",
        EDGES, "longer_than_the_window and triton", slow=True,
    ),
    Mutation(
        "a length loses its upper bits", "decode.py",
        "old = tl.load(p_lengths + batch)",
        "old = tl.load(p_lengths + batch).to(tl.uint32).to(tl.int64)",
        EDGES, "past_two_to_the_31 and triton", slow=True,
    ),
    Mutation(
        "an environment's slots lose the upper bits of their offset", "decode.py",
        "p_keys += batch * capacity * row_stride",
        "p_keys += tl.cast(batch * capacity * row_stride, tl.int32)",
        FAR, "keep_environments_apart and triton", slow=True,
    ),
]  # fmt: skip


@pytest.mark.parametrize("mutation", parameters(MUTATIONS))
def test_a_planted_bug_is_caught(mutation, test_bench, tmp_path):
    assert_caught(mutation, test_bench, tmp_path)
