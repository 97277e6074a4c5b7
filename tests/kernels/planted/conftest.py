"""The process that runs the tests on planted bugs, one for each file."""

import pytest

from tests.kernels.planted.planting import TestBench


@pytest.fixture(scope="module")
def test_bench(tmp_path_factory):
    with TestBench(tmp_path_factory.mktemp("bench") / "log.txt") as bench:
        yield bench
