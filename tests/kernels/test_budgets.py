"""Every compiled variant keeps to its budget, and the comparison finds what it should."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from fastad_kernels.testing.budgets import (
    BUDGET_FILE,
    Row,
    defects,
    excesses,
    main,
    read_budgets,
    write_budgets,
)  # fmt: skip
from fastad_kernels.testing.variants import Variant, all_variants

KERNELS = str(Path(__file__).parents[2] / "kernels")
KEYS = [variant.key for variant in all_variants()]


def _is_quick(key):
    """On one architecture: decoding as it is mostly used, the smallest head dim with everything."""
    architecture, kernel, head_dim, features = key.split("/")
    return architecture == "sm_90" and (
        (kernel == "decode" and features == "plain") or (head_dim == "D16" and features == "all")
    )


def _measure(*patterns):
    """Compile in a process of its own: this one may hold kernels made for the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = KERNELS
    run = subprocess.run(
        [sys.executable, "-m", "fastad_kernels.testing.budgets", "--json", *patterns],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout, run.stderr
    rows = [Row(**json.loads(line)) for line in run.stdout.splitlines()]
    return {row.variant: row for row in rows}


@pytest.fixture(scope="module")
def quick_rows():
    return _measure(*filter(_is_quick, KEYS))


@pytest.fixture(scope="module")
def all_rows():
    return _measure()


def _hold_to_budget(rows, key):
    assert key in rows, f"{key} did not compile; python -m fastad_kernels.testing.budgets says why"
    row = rows[key]
    assert not defects(row)
    budget = read_budgets().get((row.variant, row.triton))
    if budget is None:
        pytest.skip(f"no budget made with Triton {row.triton}; spills were checked")
    assert not excesses(row, budget)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("key", [key for key in KEYS if _is_quick(key)])
def test_a_variant_keeps_to_its_budget(quick_rows, key):
    _hold_to_budget(quick_rows, key)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("key", KEYS)
def test_every_variant_keeps_to_its_budget(all_rows, key):
    _hold_to_budget(all_rows, key)


def test_the_file_has_a_row_for_every_variant_of_each_release():
    budgets = read_budgets()
    for release in {release for _, release in budgets}:
        assert {variant for variant, made in budgets if made == release} == set(KEYS)
    assert budgets, f"{BUDGET_FILE} is missing or empty"


ROW = Row(
    variant="sm_90/forward/D16/plain", triton="3.9.0", tile="128x64 w4 s3",
    instructions_per_score=8.0, exponentials_per_score=1.0625, registers=168, spills=0,
    stack_bytes=0, shared_bytes=17408, shared_limit=232448, blocks=3, warps=12,
    limiter="registers", matrix_operation="HGMMA", memory_headroom=None,
)  # fmt: skip


VARIANT = Variant("sm_90", "forward", 16, "plain")


def _with(**changes):
    return dataclasses.replace(ROW, **changes)


def test_a_row_keeps_to_itself():
    assert excesses(ROW, ROW) == defects(ROW) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"instructions_per_score": 8.41}, "instructions_per_score=8.41 exceeds 8.0 by 5 %"),
        ({"registers": 169}, "registers=169 exceeds the class of 168"),
        ({"warps": 8, "limiter": "shared memory"}, "warps=8 fit, by shared memory"),
        ({"matrix_operation": "HMMA"}, "HMMA is used; the budget says HGMMA"),
    ],
)
def test_more_than_the_budget_is_found(changes, found):
    (problem,) = excesses(_with(**changes), ROW)
    assert problem.startswith(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"instructions_per_score": 8.4},  # exactly 5 %
        {"instructions_per_score": 5.0, "registers": 128, "warps": 16},
        {"registers": 161},  # of the same class as 168
    ],
)
def test_what_costs_nothing_passes(changes):
    budget = _with(registers=168)
    assert excesses(_with(**changes), budget) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"spills": 2}, "spills: 2"),
        ({"stack_bytes": 8}, "spills: 0, 8 bytes"),
        ({"shared_bytes": 232449}, "shared_bytes=232449 exceeds 232448"),
        ({"matrix_operation": None}, "no tensor-core instruction"),
    ],
)
def test_defects_need_no_budget(changes, found):
    (problem,) = defects(_with(**changes))
    assert problem.startswith(found)


def test_writing_replaces_rows_and_keeps_those_of_other_releases(tmp_path):
    path = tmp_path / "budgets.json"
    older = _with(triton="3.6.0", registers=196)
    write_budgets([ROW, older], path)
    write_budgets([_with(registers=160)], path)
    assert read_budgets(path) == {
        (ROW.variant, "3.9.0"): _with(registers=160),
        (ROW.variant, "3.6.0"): older,
    }


def test_a_missing_file_has_no_budgets(tmp_path):
    assert read_budgets(tmp_path / "none.json") == {}


@pytest.fixture
def stubbed(monkeypatch, tmp_path):
    """The command line with `ROW` as the only thing to measure."""
    monkeypatch.setattr("fastad_kernels.testing.budgets.all_variants", lambda: [VARIANT])
    monkeypatch.setattr("fastad_kernels.testing.budgets.measure", lambda variant: ROW)
    monkeypatch.setenv("TRITON_INTERPRET", "")
    return tmp_path / "budgets.json"


def test_the_command_writes_and_then_checks(stubbed, capsys):
    assert main(["--file", str(stubbed)]) == 0
    assert main(["--file", str(stubbed), "--check"]) == 0
    write_budgets([_with(registers=128)], stubbed)
    before = stubbed.read_text()
    assert main(["--file", str(stubbed), "--check"]) == 1
    assert "registers=168 exceeds the class of 128" in capsys.readouterr().err
    assert stubbed.read_text() == before


def test_checking_without_a_budget_fails(stubbed, capsys):
    assert main(["--file", str(stubbed), "--check"]) == 1
    assert "no budget for Triton 3.9.0" in capsys.readouterr().err
    assert not stubbed.exists()


def test_a_variant_that_does_not_compile_fails_and_does_not_hide_the_others(stubbed, capsys):
    def fail_once(variant):
        if variant is VARIANT:
            raise KeyError("no tile")
        return ROW

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastad_kernels.testing.budgets.measure", fail_once)
        patch.setattr(
            "fastad_kernels.testing.budgets.all_variants",
            lambda: [VARIANT, dataclasses.replace(VARIANT)],
        )
        assert main(["--file", str(stubbed)]) == 1
    assert "sm_90/forward/D16/plain: KeyError: 'no tile'" in capsys.readouterr().err
    assert list(read_budgets(stubbed)) == [(ROW.variant, "3.9.0")]


def test_patterns_choose_by_whole_parts(stubbed, capsys):
    assert main(["--file", str(stubbed), "--json", "sm_90/D16"]) == 0
    assert json.loads(capsys.readouterr().out)["variant"] == ROW.variant
    assert main(["--file", str(stubbed), "--json", "sm_90/D1", "decode"]) == 0
    assert capsys.readouterr().out == ""
