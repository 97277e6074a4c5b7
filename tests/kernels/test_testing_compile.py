"""Ahead-of-time compilation, in a process where Triton compiles instead of interpreting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from fastad_kernels.testing.compile import TARGETS, compile_for, compile_launches, offline
from fastad_kernels.testing.devices import DEVICES

PROBE = Path(__file__).parent / "compile_probe.py"


@pytest.fixture(scope="module")
def found():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    package = str(Path(__file__).parents[2] / "kernels")
    environment["PYTHONPATH"] = os.pathsep.join([package, environment.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(PROBE)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("architecture", "operation"),
    [("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA"), ("gfx942", "MFMA")],
)
def test_every_architecture_uses_its_own_tensor_core_instruction(found, architecture, operation):
    assert found["two_loops"][architecture]["matrix_operation"] == operation


@pytest.mark.parametrize("architecture", list(TARGETS))
def test_a_small_kernel_does_not_spill_and_fits_several_times(found, architecture):
    resources = found["two_loops"][architecture]
    assert resources["spills"] == resources["stack_bytes"] == 0
    assert 16 < resources["registers"] < 128
    assert resources["occupancy"]["blocks"] >= 4


@pytest.mark.parametrize("architecture", list(TARGETS))
def test_of_two_loops_the_unmasked_one_is_the_main_loop(found, architecture):
    # Compilers lay the two out in either order; the mask can only add instructions.
    resources = found["two_loops"][architecture]
    interior, masked = sorted(resources["loops"])
    assert resources["main"] == interior < masked


def test_tensor_memory_is_read_on_sm_100_alone(found):
    columns = {name: row["tensor_memory_columns"] for name, row in found["two_loops"].items()}
    # Scores of 64 queries by 64 keys in float32 take 64 columns.
    assert columns == {"sm_80": 0, "sm_90": 0, "sm_100": 64, "gfx942": 0}


def test_too_few_registers_show_as_spills(found):
    assert found["spilling"]["registers"] == 32
    assert found["spilling"]["spills"] > 0
    assert found["spilling"]["stack_bytes"] > 0


def test_arguments_specialise_the_kernel_as_in_a_launch(found):
    # A mask that ends at a multiple of 16 allows loads of 16 bytes.
    assert found["wide_with_multiple_of_16"]
    assert not found["wide_with_odd_length"]


def test_interpreted_kernels_are_refused():
    import triton

    with pytest.raises(RuntimeError, match="was defined with TRITON_INTERPRET=1 set"):
        compile_for(triton.runtime.interpreter.InterpretedFunction(_function), (), "sm_90")


def test_interpreted_launches_are_refused():
    import triton

    kernel = triton.runtime.interpreter.InterpretedFunction(_function)
    with pytest.raises(RuntimeError, match="was defined with TRITON_INTERPRET=1 set"):
        compile_launches(lambda: kernel[(1,)](torch.ones(1)), "sm_90")


def test_unknown_architectures_are_named():
    with (
        pytest.raises(ValueError, match="architecture='sm_75' must be one of sm_80"),
        offline("sm_75"),
    ):
        pass


def _function(x):
    pass


# Worked out by hand from the CUDA programming guide's limits per multiprocessor.
@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "num_warps", "expected"),
    [
        ("sm_90", 128, 36864, 2, (6, 12, "shared memory")),  # 228 KiB over 37 KiB
        ("sm_80", 128, 36864, 2, (4, 8, "shared memory")),  # 164 KiB over 37 KiB
        ("sm_90", 240, 21504, 4, (2, 8, "registers")),  # 7680 a warp, 2 warps a quarter
        ("sm_90", 64, 1024, 8, (4, 32, "registers")),
        ("sm_80", 32, 0, 4, (16, 64, "registers")),  # the warps run out at the same point
        ("sm_80", 24, 0, 1, (32, 32, "blocks")),
        ("gfx942", 128, 16384, 4, (4, 16, "registers")),  # 4 waves on each of 4 SIMDs
        ("gfx942", 129, 0, 4, (3, 12, "registers")),  # 136 registers, 3 waves
        ("gfx942", 32, 32768, 4, (2, 8, "shared memory")),
    ],
)
def test_occupancy(architecture, registers, shared, num_warps, expected):
    occupancy = DEVICES[architecture].occupancy(
        registers=registers, shared_bytes=shared, num_warps=num_warps
    )
    assert (occupancy.blocks, occupancy.warps, occupancy.limiter) == expected
