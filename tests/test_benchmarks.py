"""The benchmark suite: what it shows and keeps, and that nothing wrong gets a time."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import harness, report, speed_page
from fastad.cli import main
from fastad.commands import bench

SUITE = bench.find_suite()
# A suite of one question: `gate` is what its second side differs by.
TINY = """
import time
import pytest
CASES = {cases}
QUICK = ["small"]
SIDES = ("fastad", "peer", "absent")

def test_tiny(measure, case, side):
    if side == "absent":
        from benchmarks.harness import peer
        peer("a_library_that_nobody_has")
    measure.gate(1e-7 if side == "fastad" else {gate})
    {wait}
    unit = "MB" if case == "memory" else "steps/s"
    measure.values([6.0, 8.0, 10.0] if side == "fastad" else [2.0], unit=unit)
"""


@pytest.fixture
def tiny_suite(tmp_path, monkeypatch):
    """A copy of the suite's machinery with one question of our own."""

    def make(*, cases=("one",), gate=1e-7, wait=""):
        folder = tmp_path / "benchmarks"
        folder.mkdir()
        for name in ("__init__.py", "conftest.py", "harness.py", "report.py", "pytest.ini"):
            shutil.copy(SUITE / name, folder / name)
        (folder / "test_tiny.py").write_text(TINY.format(cases=cases, gate=gate, wait=wait))
        monkeypatch.setattr(bench, "find_suite", lambda: folder)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        return folder

    return make


def rows_of(file, case="one"):
    rows = json.loads(file.read_text())["rows"]
    return {row["side"]: row for row in rows if row["case"] == case}


@pytest.mark.slow
def test_the_suite_works_on_tiny_sizes(tmp_path, monkeypatch, capfd):
    questions = {path.stem.removeprefix("test_") for path in SUITE.glob("test_*.py")}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "all.json"
    command = ["bench", *sorted(questions), "--quick", "--json", str(file)]
    assert main(command) == 0, capfd.readouterr().out
    content = json.loads(file.read_text())
    assert {row["question"] for row in content["rows"]} == questions
    assert content["made_by"]["quick"]
    for row in content["rows"]:
        assert "skipped" in row or row["median"] > 0
    ours = [row for row in content["rows"] if row["side"] == "fastad"]
    assert ours
    assert all(row["difference"] <= harness.TOLERANCE for row in ours if "difference" in row)
    assert "its times mean nothing" in capfd.readouterr().out
    assert not (tmp_path / "bench-results").exists()  # tiny sizes never replace measured ones


def test_rows_ratios_and_what_made_them_are_written(tiny_suite, tmp_path, capfd):
    tiny_suite(cases=("one", "memory"))
    out = tmp_path / "out"
    assert main(["bench", "tiny", "--out", str(out), "--threads", "1"]) == 0
    rows = rows_of(out / "tiny.json")
    assert rows["fastad"]["median"] == 8.0
    assert rows["peer"]["ratio"] == 4.0
    assert "pip install --constraint" in rows["absent"]["skipped"]
    made_by = json.loads((out / "tiny.json").read_text())["made_by"]
    assert made_by["threads"] == 1
    assert {"cpu", "torch", "commit", "date", "peers"} <= made_by.keys()
    shown = capfd.readouterr().out
    assert "4.00x faster" in shown
    assert "absent skipped in 2 cases: No module named" in " ".join(shown.split())
    # Of memory less is better.
    assert rows_of(out / "tiny.json", "memory")["peer"]["ratio"] == 0.25
    assert "4.00x larger" in shown


def test_what_is_not_correct_gets_no_time(tiny_suite, tmp_path, capfd):
    tiny_suite(cases=("1e-3", "nan"), gate="float(case)")
    assert main(["bench", "--out", str(tmp_path / "out")]) == 1
    for case in ("1e-3", "nan"):
        row = rows_of(tmp_path / "out" / "tiny.json", case)["peer"]
        assert "nothing was timed" in row["failed"]
        assert not {"median", "ratio"} & row.keys()
    assert "FAILED" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_stopped_bench_keeps_what_was_measured(tiny_suite, tmp_path, number, status):
    folder = tiny_suite(wait="time.sleep(0 if side == 'fastad' else 60)")
    code = (
        "import pathlib, signal, sys; from fastad.commands import bench; from fastad.cli import "
        "main; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"bench.find_suite = lambda: pathlib.Path({str(folder)!r}); "
        f"sys.exit(main(['bench', '--out', {str(tmp_path / 'out')!r}, "
        f"'--json', {str(tmp_path / 'all.json')!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "8 steps/s" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == status, shown
    assert rows_of(tmp_path / "all.json").keys() == {"fastad"}
    assert rows_of(tmp_path / "out" / "tiny.json").keys() == {"fastad"}


@pytest.mark.parametrize(
    ("options", "way_on"),
    [
        (["--threads", "1"], "go on with: fastad bench loader train --out out --threads 1"),
        # All rows in one file come from one command.
        (["--json", "all.json"], "start again with: fastad bench attention loader train"),
    ],
)
def test_a_stopped_bench_names_the_command_for_what_is_left(
    monkeypatch, tmp_path, capsys, options, way_on
):
    def wait(command, environment):
        if "test_loader.py" in command[3]:
            raise KeyboardInterrupt
        return bench.OK

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "_wait", wait)
    questions = ["attention", "loader", "train"]
    assert main(["bench", *questions, "--out", "out", *options]) == 130
    assert way_on in capsys.readouterr().err


class Clock:
    """What a benchmark is timed by: calls that take some seconds for each number of threads."""

    def __init__(self, monkeypatch, seconds):
        self.seconds, self.now, self.stats = seconds, 0.0, self  # .stats.stats.data, as pytest's
        monkeypatch.setattr(harness.time, "perf_counter", lambda: self.now)

    def call(self):
        self.now += self.seconds[torch.get_num_threads()]

    def pedantic(self, call, *, rounds, iterations):
        self.shape, self.data = (rounds, iterations), []
        for _ in range(rounds):
            began = self.now
            for _ in range(iterations):
                call()
            self.data.append((self.now - began) / iterations)


@pytest.mark.parametrize(
    ("seconds", "imposed", "threads", "shape"),
    [
        ({1: 0.01, 3: 0.02}, False, 1, (7, 10)),  # rounds of 0.1 s
        ({1: 2.0, 3: 0.5}, False, 3, (7, 1)),
        ({1: 9.0, 3: 4.0}, False, 3, (3, 1)),  # 10 s are soon over
        ({1: 0.01, 3: 0.02}, True, 3, (7, 5)),
    ],
)
def test_a_side_is_timed_with_the_threads_that_are_quickest_for_it(
    monkeypatch, seconds, imposed, threads, shape
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if imposed:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    clock, before, row = Clock(monkeypatch, seconds), torch.get_num_threads(), {}
    torch.set_num_threads(3)
    try:
        harness.Measure(clock, row, quick=False).rate(clock.call, work=6, unit="steps/s")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert row["threads"] == threads
    assert clock.shape == shape
    assert row["median"] == pytest.approx(6 / seconds[threads])


def complaint_of(capsys, *arguments):
    capsys.readouterr()
    assert main(["bench", *arguments]) == 2
    return capsys.readouterr().err


def test_questions_threads_and_missing_parts_are_named(capsys, monkeypatch, tmp_path):
    assert "did you mean 'attention'?" in complaint_of(capsys, "atention")
    assert "threads=0 must be at least 1" in complaint_of(capsys, "--threads", "0")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "pytest_benchmark" else find_spec(name),
    )
    complaint = complaint_of(capsys)
    home = Path(__file__).parents[1]
    assert f"-m pip install --constraint {home}/constraints.txt --editable" in complaint
    assert complaint.count("\n") == 1
    monkeypatch.setattr("fastad.__file__", str(tmp_path / "fastad" / "__init__.py"))
    assert "the benchmark suite is not in" in complaint_of(capsys)


def made_row(question, case, side, median, unit="steps/s"):
    figures = {"median": median, "p20": median, "p80": median, "rounds": 3, "unit": unit}
    return {"question": question, "case": case, "side": side, **figures}


@pytest.fixture
def results(tmp_path):
    """A folder with ratios 2, 3 and 8 against one peer, and half the memory of another."""
    rows = [
        row
        for case, peers in (("a", 4.0), ("b", 1.5), ("c", 6.0))
        for row in (
            made_row("rollout", case, "fastad", 12.0),
            made_row("rollout", case, "p", peers),
        )
    ]
    rows.insert(2, made_row("rollout", "a", "fastad, slow", 1.0))
    rows += [made_row("memory", "m", "fastad", 5.0, "MB"), made_row("memory", "m", "q", 10.0, "MB")]
    rows.append({"question": "memory", "case": "m", "side": "r", "skipped": "pip install r"})
    report.write(report.with_ratios(rows), tmp_path / "results", report.made_by(quick=False))
    (tmp_path / "speed.md").write_text(
        f"before\n{speed_page.BEGIN}\nold\n{speed_page.END}\nafter\n"
    )
    return tmp_path


def refresh(folder):
    files = (("results", "results"), ("page", "speed.md"), ("figure", "docs/b.png"))
    return speed_page.main(
        [part for flag, name in files for part in (f"--{flag}", str(folder / name))]
    )


def test_the_page_in_docs_is_what_the_results_give():
    page = (speed_page.ROOT / "docs" / "speed.md").read_text()
    section = speed_page.section(report.read(SUITE / "results"), "benchmarks.png")
    assert speed_page.insert(page, section) == page, "run python -m benchmarks.speed_page"


def test_the_page_gets_the_case_in_the_middle_and_the_span(results):
    assert refresh(results) == refresh(results) == 0
    text = (results / "speed.md").read_text()
    assert (
        "| Rollout | p | a | 12 steps/s | 4 steps/s | 3.00x faster | 2.00x to 8.00x (3) |" in text
    )
    assert "| Memory | q | m | 5 MB | 10 MB | 2.00x smaller |  |" in text
    assert "left out: r" in text
    assert "fastad, slow" not in text  # it is ours
    assert "![How many times faster fastad is than its peers](docs/b.png)" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert (results / "docs" / "b.png").stat().st_size > 10_000


def test_the_page_is_left_alone_without_results_or_markers(results, capsys):
    file = results / "results" / "memory.json"
    file.write_text(file.read_text().replace('"quick": false', '"quick": true'))
    assert refresh(results) == 2
    assert "memory: measured with --quick" in capsys.readouterr().err
    shutil.rmtree(results / "results")
    assert refresh(results) == 2
    assert "fastad bench --out" in capsys.readouterr().err
    assert "old" in (results / "speed.md").read_text()


def test_a_failed_row_shows_no_figures_and_skips_are_gathered():
    rows = [
        made_row("q", "case", "fastad", 3.0),
        {"question": "q", "case": "case", "side": "bad", "failed": "differs"},
        {"question": "q", "case": "case", "side": "absent", "skipped": "not here"},
        made_row("q", "other", "fastad", 3.0),
        {"question": "q", "case": "other", "side": "absent", "skipped": "not here"},
    ]
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print_tables(report.with_ratios(rows), report.made_by(quick=False), console)
    text = console.export_text()
    assert "absent skipped in 2 cases: not here" in text
    assert "FAILED: differs" in text
    assert max(map(len, text.splitlines())) <= 100
