"""The process that runs the tests on planted bugs, one for each file."""

import pytest

from tests.kernels.planted.planting import TestBench


@pytest.fixture(scope="module")
def test_bench(request, tmp_path_factory):
    """A bench that knows which of the tests named by the module's `MUTATIONS` pass without them."""
    with TestBench(tmp_path_factory.mktemp("bench") / "log.txt") as bench:
        bench.run_unchanged(request.module.MUTATIONS)
        yield bench
