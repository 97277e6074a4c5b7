"""Bugs planted in the C++ kernels; their tests find each of them."""

from dataclasses import replace

import pytest
from fastad_kernels.native import why_unavailable

from tests.kernels.planted.planting import Mutation, assert_caught, assert_pass_unchanged

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

DECODE, BACKWARD, ROWS = "test_native_decode.py", "test_backward.py", "test_native_rows.py"
RING = "decoding_is_as_exact"
EXACT = "native and as_exact_as_those_of_plain"
MUTATIONS = [
    Mutation(
        "the window of a cached step is one token short", "ring_attention.h",
        "std::min(a.position + 1, a.window);",
        "std::min(a.position + 1, a.window - (a.window > 1));",
        DECODE, f"{RING} and none-15-16-4-4",
    ),
    Mutation(
        "the newest token is lost where the ring wraps", "ring_attention.h",
        "{0, slot + seen - a.capacity, 0}", "{0, slot + seen - a.capacity - 1, 0}",
        DECODE, f"{RING} and none-15-16-4-4",
    ),
    Mutation(
        "what lies in a slot that is not seen reaches the result", "ring_attention.h",
        "if (MASKED) v = select(mask, v, Vec{});", "",
        DECODE, f"{RING} and none-15-16-4-4",
    ),
    Mutation(
        "distances go wrong behind the end of the ring", "ring_attention.h",
        "runs[1].offset = runs[0].offset + a.capacity;", "runs[1].offset = runs[0].offset;",
        DECODE, f"{RING} and alibi-15-16-4-4",
    ),
    Mutation(
        "a chunk with a larger score does not fade the earlier ones", "ring_attention.h",
        "out[d] *= fade;", "out[d] *= 1.0f;",
        DECODE, f"{RING} and none-600-16-4-4",
    ),
    Mutation(
        "a block forgets its residual connection", "decode.cpp",
        "linear<Start::ADD_BIAS>(attended,", "linear<Start::BIAS>(attended,",
        DECODE, "native_blocks_equal and 1-none-False-True",
    ),
    Mutation(
        "new tokens go into the slot of another environment", "decode.cpp",
        "slot = env * kv_width * block.rings.capacity;",
        "slot = first * kv_width * block.rings.capacity;",
        DECODE, "native_blocks_equal and 1-none-False-True",
    ),
    Mutation(
        "the window of whole sequences is one key too long", "band.h",
        "position(query) - window + 1, 0", "position(query) - window, 0",
        BACKWARD, EXACT,
    ),
    Mutation(
        "delta is not subtracted", "attention.cpp",
        "weight * (load(grad) - delta)", "weight * load(grad)",
        BACKWARD, EXACT,
    ),
    Mutation(
        "a packed sequence writes its gradients into the first one", "attention.cpp",
        "float* dk = sequence.at(g.dk, of_keys, sequence.first_key, kv_head);",
        "float* dk = sequence.at(g.dk, of_keys, 0, kv_head);",
        BACKWARD, "native and packed_histories_give_bitwise",
    ),
    Mutation(
        "the gradient through the norm lacks its second mean", "rows.h",
        "(scaled - mean_d - normed * mean_dx)", "(scaled - mean_d)",
        ROWS, "as_exact_as_those",
    ),
    Mutation(
        "the last tokens of a thread go nowhere", "mlp.cpp",
        "std::min<int64_t>(ROWS, share.last - first)",
        "std::min<int64_t>(ROWS, share.last - first) & ~1",
        ROWS, "results_and_gradients_are_as_exact_as_those", count=2,
    ),
    Mutation(
        "a linear map forgets the residual", "projection.cpp",
        "std::copy_n(residual + first * out, rows * out, y_rows);",
        "std::fill_n(y_rows, rows * out, 0.0f);",
        ROWS, "linear_maps_are_as_exact",
    ),
]  # fmt: skip
MUTATIONS = [replace(mutation, folder="native/src") for mutation in MUTATIONS]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_bug_is_caught(mutation, test_bench, tmp_path):
    assert_caught(mutation, test_bench, tmp_path)


def test_without_a_bug_the_same_tests_pass(test_bench, tmp_path):
    assert_pass_unchanged(MUTATIONS, test_bench, tmp_path)
