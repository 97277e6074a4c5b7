"""Bugs planted in the forward kernel; the tests of the forward pass find each of them."""

import pytest

from tests.kernels.planted.planting import Mutation, assert_caught, parameters

pytest.importorskip("triton")

TESTS = "test_triton_forward.py"
FAR = "test_far_apart.py"
EXACT = "as_exact_as_plain"
MUTATIONS = [
    Mutation(
        "the window reaches one key too far", "forward.py",
        "keys[None, :] > positions[:, None] - window",
        "keys[None, :] >= positions[:, None] - window",
        TESTS, f"{EXACT} and float64",
    ),
    Mutation(
        "a query does not see itself", "forward.py",
        "visible = keys[None, :] <= positions[:, None]",
        "visible = keys[None, :] < positions[:, None]",
        TESTS, f"{EXACT} and float64", slow=True,
    ),
    Mutation(
        "tiles at the window's edge count as interior", "forward.py",
        "inner = tl.maximum(last_position - window + 1, 0)",
        "inner = tl.maximum(first_position - window + 1, 0)",
        TESTS, f"{EXACT} and float64", slow=True,
    ),
    Mutation(
        "values before the window are loaded", "forward.py",
        "b_v = tl.load(p_v_tile + v_offsets, mask=loaded, other=0.0)",
        "b_v = tl.load(p_v_tile + v_offsets, mask=(keys < high)[:, None], other=0.0)",
        TESTS, "nan_in_keys", slow=True,
    ),
    Mutation(
        "the scale lacks log2(e)", "forward.py",
        "threshold, scale * LOG2_E, keep_scale(dropout),",
        "threshold, scale, keep_scale(dropout),",
        TESTS, f"{EXACT} and float64", slow=True,
    ),
    Mutation(
        "the log-sum-exp lacks ALiBi's term of the row", "forward.py",
        "lse -= slope * (positions - origin).to(ACC)",
        "lse -= 0.0",
        TESTS, f"{EXACT} and float16", "lse", slow=True,
    ),
    Mutation(
        "query heads take turns on key heads", "forward.py",
        "kv_head = (head // num_groups).to(tl.int64)",
        "kv_head = (head % (num_heads // num_groups)).to(tl.int64)",
        TESTS, f"{EXACT} and float64", slow=True,
    ),
    Mutation(
        "a packed sequence has a row too many", "forward.py",
        "in_rows = rows < num_queries",
        "in_rows = rows < num_queries + 1",
        TESTS, "every_access and packed", "RaceError|OutOfBoundsError",
    ),
    Mutation(
        "kept weights are not scaled up", "forward.py",
        "factor *= weight_scale",
        "factor *= 1.0",
        TESTS, f"{EXACT} and float64", slow=True,
    ),
    Mutation(
        "all heads drop the same weights", "dropout.py",
        "c2 = tl.zeros((BLOCK_M, CALLS), tl.uint32) + batch_head.to(tl.uint32)",
        "c2 = tl.zeros((BLOCK_M, CALLS), tl.uint32)",
        TESTS, f"{EXACT} and float64", slow=True,
    ),
    Mutation(
        "earlier values keep their weight when the maximum moves", "forward.py",
        "b_v, acc * decay[:, None],",
        "b_v, acc,",
        TESTS, f"{EXACT} and float64", slow=True,
    ),
    Mutation(
        "values are read with the strides of the keys", "forward.py",
        "*_strides(k), *_strides(v),", "*_strides(k), *_strides(k),",
        TESTS, f"{EXACT} and strided",
    ),
    Mutation(
        "packed values are read with the strides of the keys", "forward.py",
        "*_strides(k), *_strides(v),", "*_strides(k), *_strides(k),",
        TESTS, f"{EXACT} and packed", slow=True,
    ),
    Mutation(
        "a sequence's offset loses its upper bits", "forward.py",
        "p_q += batch * stride_qb", "p_q += tl.cast(batch * stride_qb, tl.int32)",
        FAR, "sequences_and_heads and triton", slow=True,
    ),
    Mutation(
        "a packed sequence's offset loses its upper bits", "forward.py",
        "k_start * stride_kt", "tl.cast(k_start * stride_kt, tl.int32)",
        FAR, "packed_sequences and triton", slow=True,
    ),
]  # fmt: skip


@pytest.mark.parametrize("mutation", parameters(MUTATIONS))
def test_a_planted_bug_is_caught(mutation, test_bench, tmp_path):
    assert_caught(mutation, test_bench, tmp_path)
