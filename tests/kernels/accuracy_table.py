"""A pytest plugin that ends with a table: how exact every kernel is beside plain PyTorch.

`make accuracy` runs it: `pytest -p tests.kernels.accuracy_table`. Each line is the worst of all
cases of a test, as multiples of plain PyTorch's error; `tests.kernels.tolerance` says what is
allowed.
"""

import re
from collections import defaultdict

from tests.kernels import tolerance

_KEY = "accuracy"
_worst: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])


def pytest_runtest_setup(item):
    tolerance.comparisons.clear()


def pytest_runtest_teardown(item):
    # Workers of pytest-xdist hand these on with the report.
    found = [(x.name, str(x.dtype), x.rms, x.largest) for x in tolerance.comparisons]
    item.user_properties.append((_KEY, found))


def pytest_runtest_logreport(report):
    if report.when != "teardown":
        return
    for name, dtype, rms, largest in dict(report.user_properties).get(_KEY, ()):
        path, test = report.nodeid.split("::", 1)
        named = re.search(r"native|triton|sdpa", f"{path} {test}")
        row = _worst[
            named.group() if named else "triton", test.split("[")[0].removeprefix("test_")[:56],
            name or "out", dtype.removeprefix("torch."),
        ]  # fmt: skip
        row[:] = row[0] + 1, max(row[1], rms), max(row[2], largest)


def pytest_terminal_summary(terminalreporter):
    write = terminalreporter.write_line
    write(
        f"worst of all cases, as multiples of plain PyTorch's error; at most {tolerance.MOST_RMS} "
        f"and {tolerance.MOST_LARGEST:g}"
    )
    titles = ("kernel", "test", "result", "dtype")
    widths = [max(map(len, column)) for column in zip(titles, *_worst, strict=True)]

    def line(cells, *numbers):
        write("  ".join([*map(str.ljust, cells, widths), *(number.rjust(7) for number in numbers)]))

    line(titles, "cases", "rms", "largest")
    for key, (cases, rms, largest) in sorted(_worst.items()):
        line(key, str(cases), f"{rms:.2f}", f"{largest:.2f}")
