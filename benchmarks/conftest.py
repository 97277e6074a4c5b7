"""The suite's pytest plugin: cases and sides, one row per benchmark, and what becomes of them.

A benchmark is one file, `test_QUESTION.py`, with one function of that name. It lists its `CASES`
(and tiny `QUICK` ones), and its `SIDES`, of which the first is what ratios are taken to. Where it
says `A_PROCESS_EACH = True`, a row is measured as a user would meet it, in a process of its own:
memory that one side leaves behind makes another's allocations several times as quick or slow.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.harness import Measure

ROW = "fastad-row"
FIGURES = ("unit", "median", "p20", "p80", "rounds")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suite."""
    group = parser.getgroup("fastad")
    group.addoption("--quick", action="store_true", help="tiny cases: does it work at all?")
    group.addoption("--out", type=Path, default=None, help="folder for one JSON per question")
    group.addoption("--all-rows", type=Path, default=None, help="one JSON file for all rows")
    group.addoption("--row", type=Path, default=None, help="only for the suite's own processes")


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


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Let a process of its own do the work, if the question asks for that."""
    config = pyfuncitem.config
    if config.getoption("quick") or config.getoption("row") is not None:
        return None
    if not getattr(pyfuncitem.module, "A_PROCESS_EACH", False):
        return None
    row = dict(pyfuncitem.user_properties)[ROW]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        name = f"{pyfuncitem.path}::{pyfuncitem.name}"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", name, "--row", str(file)],
            capture_output=True, text=True,
        )  # fmt: skip
        if not file.exists():
            lines = (done.stdout + done.stderr).strip().splitlines()
            pytest.fail(f"its process died: {lines[-1] if lines else ''}", pytrace=False)
        row |= json.loads(file.read_text())
    if "skipped" in row:
        pytest.skip(row["skipped"])
    if "failed" in row:
        pytest.fail(row["failed"], pytrace=False)
    return True


class _Rows:
    """Takes note of every row, whether measured, skipped or failed, and shows it at once."""

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
            # A time that was taken before something failed says nothing.
            for figure in FIGURES:
                row.pop(figure, None)
            row["failed"] = _last_line(str(report.longrepr))
        if row in self.rows:  # its teardown failed
            self.rows.remove(row)
        self.rows.append(row)
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(report_line(row))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        """Our line above instead of pytest's letters."""
        if report.when == "call" and report.passed:
            return "passed", "", ""
        if report.skipped:
            return "skipped", "", ""
        return None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.config.getoption("row") is not None:
            (row,) = self.rows
            self.config.getoption("row").write_text(json.dumps(row))
            return
        quick = self.config.getoption("quick")
        rows = report.with_ratios(self.rows)
        made_by = report.made_by(quick=quick)
        report.print_tables(rows, made_by)
        out, file = self.config.getoption("out"), self.config.getoption("all_rows")
        written = [] if out is None else report.write(rows, out, made_by)
        if file is not None:
            written.append(report.write_rows(rows, file, made_by))
        if written:
            terminalreporter.write_line(f"wrote {', '.join(map(str, written))}")


def _last_line(text: str) -> str:
    """The message of an error, without the place that pytest puts after it."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return lines[0] if lines else text.strip().splitlines()[-1]


def report_line(row: dict[str, Any]) -> str:
    """What is shown of a row as soon as it is measured."""
    head = f"{row['question']:9} {row['case']:32} {row['side']:24}"
    if "skipped" in row:
        return f"{head} skipped"
    if "failed" in row:
        return f"{head} FAILED: {row['failed']}"
    return f"{head} {report.number(row['median'])} {row['unit']}" if "median" in row else head
