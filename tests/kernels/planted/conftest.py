"""The process that runs the tests on planted bugs."""

import pytest

from tests.kernels.planted.planting import TestBench


@pytest.fixture(scope="session")
def test_bench(tmp_path_factory, worker_id):
    """A bench of this process; all processes share what they compile."""
    folder = tmp_path_factory.getbasetemp()
    compiled = folder if worker_id == "master" else folder.parent
    with TestBench(tmp_path_factory.mktemp("bench"), compiled) as bench:
        yield bench
