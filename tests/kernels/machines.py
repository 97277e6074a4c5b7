"""Run the kernels' tests as on other machines, by what libraries and compilers can be told.

    python -m tests.kernels.machines [--quick | --whole] [--planted] [NAME...]

`make machines` runs it. A library picks its code by processor; most of them can be told to pick
another's. What a kernel gives must not depend on it beyond rounding, and tests must hold on all.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MACHINES = {
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "mkl-avx2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "mkl-cbwr": {"MKL_CBWR": "AVX2"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "openblas-haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "gcc-zen3": {"CXXFLAGS": "-mno-avx512f -mtune=znver3"},
    "gcc-no-avx": {"CXXFLAGS": "-mno-avx"},
    # AVX-512's tiles and blocks, each vector of two registers where there is AVX alone.
    "gcc-16-lanes": {"CXXFLAGS": "-DFASTAD_LANES=16"},
    "no-compiler": {"CXX": "/nonexistent"},
    # All libraries at once: a machine with AVX2 alone, and one that none of the above is like.
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell",
        "CXXFLAGS": "-mno-avx512f -mtune=znver3",
    },
    "oldest": {
        "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem", "CXXFLAGS": "-mno-avx",
    },
}  # fmt: skip
# What compares with plain PyTorch, in a part that takes a minute or two on two cores.
QUICK = [
    "tests/kernels/test_native_decode.py", "tests/kernels/test_native_blocks.py",
    "tests/kernels/test_native_rows.py", "tests/kernels/test_backward.py",
    "tests/kernels/test_edges.py",
    "-k", "(native or decoding or linear_maps or results_and_gradients) and not (600- or 48)",
]  # fmt: skip


def run_tests(machine: str, tests: list[str]) -> dict[str, int]:
    """Run the tests as on a machine, and show them; their numbers by what pytest says of them."""
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryDirectory() as cache:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal",
                "-p", "no:cacheprovider", *tests,
            ],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env=os.environ | threads | {"XDG_CACHE_HOME": cache} | MACHINES[machine],
        )  # fmt: skip
        last = ""
        for last in process.stdout:
            print(last, end="", flush=True)
        status = process.wait()
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", last)}
    if status and not numbers.get("failed") and not numbers.get("errors"):
        numbers["errors"] = 1  # it broke off
    return numbers


def main() -> int:
    """Run the tests as on each machine, then print a table."""
    parser = argparse.ArgumentParser(prog="make machines", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MACHINES))
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="a part that takes a minute or two")
    extent.add_argument("--whole", action="store_true", help="all tests, not the kernels' alone")
    parser.add_argument("--planted", action="store_true", help="planted bugs, too")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(MACHINES))
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(MACHINES)}")
    # A planted bug tests the tests, and for that one machine is enough.
    left_out = [] if options.planted else ["--ignore=tests/kernels/planted"]
    every = "tests" if options.whole else "tests/kernels"
    tests = QUICK if options.quick else [every, *left_out]
    rows = []
    for machine in options.names or MACHINES:
        print(f"== {machine}: {' '.join('='.join(x) for x in MACHINES[machine].items())}")
        start = time.perf_counter()
        rows.append((machine, run_tests(machine, tests), time.perf_counter() - start))
    print(f"\n{'machine':<20}{'passed':>8}{'skipped':>8}{'failed':>8}{'seconds':>9}")
    for machine, numbers, seconds in rows:
        failed = sum(numbers.get(word, 0) for word in ("failed", "error", "errors"))
        print(
            f"{machine:<20}{numbers.get('passed', 0):>8}{numbers.get('skipped', 0):>8}"
            f"{failed:>8}{seconds:>9.0f}"
        )
    return int(any(set(numbers) & {"failed", "error", "errors"} for _, numbers, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
