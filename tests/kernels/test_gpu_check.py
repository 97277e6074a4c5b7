"""The script for GPUs works: its checks on tiny sizes, and its tables with a stopped clock."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")


@pytest.fixture
def parts(monkeypatch):
    """The modules under `benchmarks/gpu`, by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("common", "attention_checks", "attention_times", "decode_checks", "decode_times")
    return {name: importlib.import_module(f"gpu.{name}") for name in names}


@pytest.mark.slow
@without_gpu
def test_without_a_gpu_all_checks_run_in_the_interpreter_and_no_time_is_claimed(tmp_path):
    out = tmp_path / "gpu.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--quick", "--out", str(out)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(out.read_text())
    correctness = result["correctness"]
    assert correctness["failed"] == correctness["cases_without_time"] == 0
    groups = {(check["group"], check["head_dim"]) for check in correctness["checks"]}
    assert {(group, d) for group in ("forward", "backward") for d in (16, 32, 64, 128)} <= groups
    assert {("decode", 16), ("decode", 64), ("rollout", 16)} <= groups
    assert result["run_on"] == "Triton's interpreter on a CPU: no times"
    assert result["attention"] == result["decode"] == "not measured: no GPU"
    assert result["versions"]["torch"] == torch.__version__
    assert "times: not measured: no GPU" in run.stdout


def test_a_check_fails_beyond_twice_the_plain_error(parts):
    compare, exact = parts["common"].compare, torch.ones(4, dtype=torch.float64)
    plain = [torch.full((4,), 1.001)]
    assert compare("forward", 16, "x", torch.full((4,), 1.0019), plain, exact).problem is None
    assert "exceeds" in compare("forward", 16, "x", torch.full((4,), 1.0021), plain, exact).problem
    nan = torch.full((4,), torch.nan)
    assert compare("forward", 16, "x", nan, plain, exact).problem == "not finite"


def test_equal_bits_are_asked_for(parts):
    check_equal, ones = parts["common"].check_equal, torch.ones(4)
    assert check_equal("decode", 16, "x", ones, ones.clone()).problem is None
    different = check_equal("decode", 16, "x", ones, torch.tensor([1.0, 1.0, 1.0, 2.0]))
    assert different.problem == "25 % of the elements differ"


def test_an_exception_is_a_failed_check(parts):
    (check,) = parts["common"].guarded("decode", 16, "x", lambda: 1 / 0)
    assert check.problem == "ZeroDivisionError: division by zero"


def test_work_counts_visible_pairs(parts):
    flop, times = parts["attention_times"]._flop, parts["attention_times"]
    per_pair = 4 * times.WIDTH * times.TOKENS
    # A causal triangle of 4 tokens has 10 pairs; with a window of 2 it has 1 + 2 + 2 + 2.
    assert flop("forward", 4, None) == per_pair / 4 * 10
    assert flop("forward", 4, 2) == per_pair / 4 * 7
    assert flop("backward", 4, 2) == 2.5 * per_pair / 4 * 7


def test_bytes_of_a_decode_step(parts):
    case = parts["decode_checks"].Case(16, num_new=3, heads=(8, 4), window=10, num_envs=2)
    # Keys and values, 2 environments, 4 heads of 16 numbers of 2 bytes: 9 read, 3 written.
    assert parts["decode_times"].num_bytes(case) == 2 * 2 * 4 * 16 * 2 * (9 + 3)


@pytest.fixture
def stopped(parts, monkeypatch):
    """Timing that calls once and says 2 ms, on sizes for the interpreter."""

    def call_once(call):
        call()
        return {"ms": 2.0, "ms_20": 2.0, "ms_80": 2.0}

    attention, decode = parts["attention_times"], parts["decode_times"]
    for module in (attention, decode):
        monkeypatch.setattr(module, "milliseconds", call_once)
    for name, value in {"TOKENS": 128, "WIDTH": 32, "FLEX_LENGTHS": ()}.items():
        monkeypatch.setattr(attention, name, value)
    monkeypatch.setattr(attention, "points", lambda quick: [(16, 64, None), (16, 64, 20)])
    monkeypatch.setattr(decode, "COPY_BYTES", 1000)
    return parts


@without_gpu
def test_attention_is_timed_against_every_peer_that_is_there(stopped):
    clock = stopped["common"].Clock(1000)
    rows = stopped["attention_times"].run(clock, 1.0, True, set())
    assert len(rows) == 2 * 4 * 2  # points, implementations, passes
    status = {(row["impl"], row["pass"], row["window"]): row["status"] for row in rows}
    for impl in ("triton", "sdpa"):
        assert {status[impl, "forward", w] for w in (None, 20)} == {"measured"}
        assert {status[impl, "backward", w] for w in (None, 20)} == {"measured"}
    assert "takes long to compile" in status["flex", "forward", None]
    assert {row["triton_is_faster_by"] for row in rows if row["impl"] == "sdpa"} == {1.0}


@without_gpu
def test_what_failed_its_checks_is_not_timed(stopped):
    clock = stopped["common"].Clock(1000)
    rows = stopped["attention_times"].run(clock, 1.0, True, {("backward", 16)})
    status = {(row["impl"], row["pass"]): row["status"] for row in rows}
    assert status["triton", "forward"] == "measured"
    assert status["triton", "backward"] == "not measured: D=16 failed its checks"
    assert not any("triton_is_faster_by" in row for row in rows if row["pass"] == "backward")
    _, rows = stopped["decode_times"].run(clock, 1.0, True, {("decode", 16)})
    status = {row["impl"]: row["status"] for row in rows}
    assert status["triton"] == "not measured: decode failed its checks at D=16"
    assert status["sdpa"] == "measured"


@without_gpu
def test_what_no_time_is_left_for_is_listed(stopped):
    rows = stopped["attention_times"].run(stopped["common"].Clock(0), 1.0, True, set())
    assert {row["status"] for row in rows} == {"not measured: no time left"}
    checks, left = stopped["decode_checks"].run(stopped["common"].Clock(0), 1.0, True)
    assert left == 2
    assert [check.name for check in checks] == ["no host synchronisation"]


@without_gpu
def test_decode_is_timed_as_bytes_per_second(stopped):
    bandwidth, rows = stopped["decode_times"].run(stopped["common"].Clock(1000), 1.0, True, set())
    assert bandwidth == 2 * 1000 / 2e-3
    by_impl = {row["impl"]: row for row in rows}
    case = stopped["decode_times"].cases(True)[0]
    expected = stopped["decode_times"].num_bytes(case) / 2e-3
    assert by_impl["triton"]["status"] == "measured"
    assert by_impl["triton"]["gigabytes_per_second"] == pytest.approx(expected / 1e9)
    assert by_impl["triton"]["share_of_copy"] == pytest.approx(expected / bandwidth)
    # Graphs need a GPU: the row says so instead of being left out.
    assert by_impl["triton graph"]["status"].startswith("not measured: ")


@without_gpu
def test_tables_show_every_row(stopped, monkeypatch, capsys):
    script = importlib.import_module("gpu_check")
    monkeypatch.setattr(script, "HAS_GPU", True)
    clock = stopped["common"].Clock(1000)
    attention = stopped["attention_times"].run(clock, 1.0, True, {("backward", 16)})
    bandwidth, decode = stopped["decode_times"].run(clock, 1.0, True, set())
    times = {"attention": attention, "copy_bandwidth": bandwidth, "decode": decode}
    script.print_times(times)
    lines = capsys.readouterr().out.splitlines()
    # Two headings with an empty line before each, the copy, and the rows.
    assert len(lines) == 5 + len(attention) + len(decode)
    (ours,) = [line for line in lines if line.startswith("forward") and "-       triton" in line]
    # 2 sequences by 2 heads by 2080 pairs by 64 operations in 2 ms: 0.0003 TFLOP/s.
    assert ours.split() == ["forward", "16", "64", "-", "triton", "2.000", "0.0"]
    assert sum("failed its checks" in line for line in lines) == 2
    assert sum(line.endswith("1.00x") for line in lines) == 2  # PyTorch, forward


@without_gpu
def test_failures_are_printed_with_their_reason(parts, capsys):
    script, check = importlib.import_module("gpu_check"), parts["common"].Check
    checks = [check("decode", 16, "x"), check("decode", 16, "y", problem="not finite")]
    script.print_checks(
        {
            "checks": [vars(check) for check in checks],
            "failures": [vars(checks[1])],
            "cases_without_time": 3,
        }
    )
    out = capsys.readouterr().out
    assert "decode    D=16   1 of 2 checks passed" in out
    assert "FAILED decode D=16 y: not finite" in out
    assert "3 cases were not run: no time left" in out


def test_only_a_full_check_without_failure_is_kept(parts, monkeypatch, capsys):
    script = importlib.import_module("gpu_check")
    kept = []

    def keep_proof(device, *, passed):
        kept.append(passed)
        return "proof.json"

    monkeypatch.setattr("fastad.rollouts.gpu_proof.keep_proof", keep_proof)
    for failed, without_time in ((0, 0), (1, 0), (0, 2)):
        script.keep({"failed": failed, "cases_without_time": without_time})
    assert kept == [True, False, False]
    assert capsys.readouterr().out.count("CUDA graphs stay off") == 2
