"""Bugs planted in the backward kernels; the tests of the gradients find each of them."""

import pytest

from tests.kernels.planted.planting import Mutation, assert_caught, parameters

pytest.importorskip("triton")

TESTS = "test_backward.py"
SHARED, DQ, DKDV = (f"backward_{part}.py" for part in ("shared", "dq", "dkdv"))
EXACT = "as_exact_as_those_of_plain"
WIDE, FAR = "test_triton_windows.py", "test_far_apart.py"
MUTATIONS = [
    Mutation(
        "the window reaches one key too far", SHARED,
        "distance.to(tl.uint32) < window.to(tl.uint32)",
        "distance.to(tl.uint32) <= window.to(tl.uint32)",
        TESTS, "float64", slow=True,
    ),
    Mutation(
        "tiles at the window's edge count as whole in dQ", DQ,
        "full_low = tl.maximum(end_row + shift - window, 0)",
        "full_low = tl.maximum(start_row + shift - window, 0)",
        WIDE, "float32", slow=True,
    ),
    Mutation(
        "delta is not subtracted in dQ", DQ,
        "b_ds = b_p * (b_dp - b_delta[:, None])",
        "b_ds = b_p * b_dp",
        TESTS, "float64", slow=True,
    ),
    Mutation(
        "delta is not subtracted in dK", DKDV,
        "b_ds = b_p * (b_dp - b_delta[None, :])",
        "b_ds = b_p * b_dp",
        TESTS, "float64", slow=True,
    ),
    Mutation(
        "dK/dV takes the dropout mask of the transposed tile", DKDV,
        "tl.trans(keep_mask(seed, batch_head, rows, start_key, threshold, BLOCK_N))",
        "keep_mask(seed, batch_head, keys, start, threshold, BLOCK_M)",
        TESTS, f"{EXACT} and 0.3 and 63",
    ),
    Mutation(
        "dK/dV forgets ALiBi where it is added whole", DKDV,
        "tl.fma(b_distance, slope, -b_lse[None, :])",
        "-b_lse[None, :]",
        TESTS, "float64", slow=True,
    ),
    Mutation(
        "dK/dV forgets ALiBi where it is split", DKDV,
        "b_s * score_scale + (slope * (keys - shift - start).to(ACC))[:, None] - b_lse[None, :]",
        "b_s * score_scale - b_lse[None, :]",
        WIDE, "float16", slow=True,
    ),
    Mutation(
        "keys before the window are loaded in dQ", DQ,
        "b_k = _load_rows(p_k, stride_kt, start, low, high,",
        "b_k = _load_rows(p_k, stride_kt, start, 0, high,",
        TESTS, "key_that_no_query_sees", slow=True,
    ),
    Mutation(
        "dK/dV starts from the wrong query head of a group", DKDV,
        "head, batch_head = kv_head * GROUP, ",
        "head, batch_head = kv_head, ",
        TESTS, "float64", slow=True,
    ),
    Mutation(
        "a packed sequence reads the log-sum-exp of the first", DKDV,
        "p_lse += batch * stride_lb + first_q + ",
        "p_lse += batch * stride_lb + ",
        TESTS, "packed_histories", slow=True,
    ),
    Mutation(
        "a packed sequence has a key too many", DKDV,
        "inside = (keys < end_key)[:, None]",
        "inside = (keys < end_key + 1)[:, None]",
        TESTS, "every_access and packed", "RaceError|OutOfBoundsError", slow=True,
    ),
    Mutation(
        "values are read with the strides of the keys", "backward.py",
        "strides = [stride for x in (q, k, v, grad_out)",
        "strides = [stride for x in (q, k, k, grad_out)",
        TESTS, f"{EXACT} and strided and triton", slow=True,
    ),
    Mutation(
        "packed values are read with the strides of the keys", "backward.py",
        "strides = [stride for x in (q, k, v, grad_out)",
        "strides = [stride for x in (q, k, k, grad_out)",
        TESTS, f"{EXACT} and packed and triton", slow=True,
    ),
    Mutation(
        "a sequence's offset loses its upper bits in dK/dV", DKDV,
        "p_v += batch * stride_vb", "p_v += tl.cast(batch * stride_vb, tl.int32)",
        FAR, "sequences_and_heads and triton", slow=True,
    ),
    Mutation(
        "a packed sequence's offset loses its upper bits in dQ", DQ,
        "first_k * stride_vt", "tl.cast(first_k * stride_vt, tl.int32)",
        FAR, "packed_sequences and triton", slow=True,
    ),
]  # fmt: skip


@pytest.mark.parametrize("mutation", parameters(MUTATIONS))
def test_a_planted_bug_is_caught(mutation, test_bench, tmp_path):
    assert_caught(mutation, test_bench, tmp_path)
