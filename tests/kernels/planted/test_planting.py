"""What planted bugs are judged by: only a wrong result that a test names counts as caught."""

import pytest

from tests.kernels.planted.planting import Mutation, assert_caught

pytest.importorskip("triton")

HARMLESS = Mutation(
    "an empty statement", "forward.py", "    low, high, inner, outer = 0, num_keys, 0, num_keys",
    "    low, high, inner, outer = 0, num_keys, 0, num_keys + 0",
    "test_triton_forward.py", "sees_no_key_gives_zero",
)  # fmt: skip


def changed(**changes):
    return Mutation(**(vars(HARMLESS) | changes))


RED = changed(tests="planted/always_red.py", keyword="red")


@pytest.mark.parametrize(
    ("mutation", "verdict"),
    [
        (HARMLESS, "went unnoticed by 1 tests"),
        (changed(new="    low, high, inner, outer = 0, unknown, 0, 0"), "broke the kernel"),
        (changed(new="    low, high inner"), "broke the kernel"),
        (changed(old="no such text"), "no longer applies: update it"),
        (changed(keyword="no_such_test"), "no test in test_triton_forward.py"),
        (RED, "proves nothing: without it these do not pass"),
    ],
)
def test_a_mutation_that_no_test_catches_is_refused(mutation, verdict, test_bench, tmp_path):
    with pytest.raises(AssertionError, match=verdict):
        assert_caught(mutation, test_bench, tmp_path)
