"""A test that fails whatever the kernels do; `test_planting` alone names this file."""


def test_red():
    raise AssertionError("red with a bug and without")
