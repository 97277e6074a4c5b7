"""The suite's pytest plugin: cases and sides, one row per benchmark, and what becomes of them.

A benchmark is one file, `test_QUESTION.py`, with one function of that name. It lists its `CASES`
(and tiny `QUICK` ones), and its `SIDES`, of which the first is what ratios are taken to.
"""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.harness import Measure

ROW = "fastad-row"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suite."""
    group = parser.getgroup("fastad")
    group.addoption("--quick", action="store_true", help="tiny cases: does it work at all?")
    group.addoption("--out", type=Path, default=None, help="folder for one JSON per question")


def pytest_configure(config: pytest.Config) -> None:
    """Collect rows as they come."""
    config.pluginmanager.register(_Rows(config), "fastad-rows")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every side of a case runs right after the other, so that both meet the same machine."""
    module = metafunc.module
    cases = module.QUICK if metafunc.config.getoption("quick") else module.CASES
    metafunc.parametrize("case", cases, ids=str)
    metafunc.parametrize("side", list(module.SIDES), ids=str)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Measure:
    """See `Measure`."""
    row = dict(request.node.user_properties)[ROW]
    return Measure(benchmark, row, quick=request.config.getoption("quick"))


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether this is only a check that the suite works."""
    return bool(request.config.getoption("quick"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Function) -> None:
    """Begin a row: what is compared is known before anything can fail."""
    parameters = item.callspec.params
    item.user_properties.append(
        (
            ROW,
            {
                "question": item.path.stem.removeprefix("test_"),
                "case": str(parameters["case"]),
                "side": parameters["side"],
            },
        )
    )


class _Rows:
    """Takes note of every row, whether measured, skipped or failed."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = dict(report.user_properties).get(ROW)
        if row is None or (report.when != "call" and report.passed):
            return
        if report.skipped:
            assert isinstance(report.longrepr, tuple)
            row["skipped"] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            row["failed"] = str(report.longrepr).strip().splitlines()[-1]
        self.rows.append(row)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        if report.when == "call" and report.passed:
            row = dict(report.user_properties).get(ROW, {})
            return "passed", ".", report_line(row)
        return None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        rows = report.with_ratios(self.rows)
        report.print_tables(rows)
        out = self.config.getoption("out")
        if out is not None:
            for file in report.write(rows, out, quick=self.config.getoption("quick")):
                terminalreporter.write_line(f"wrote {file}")


def report_line(row: dict[str, Any]) -> str:
    """What is shown of a row as soon as it is measured."""
    return f"{report.number(row['median'])} {row['unit']}" if "median" in row else "done"
