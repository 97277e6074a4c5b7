"""Plant a bug in a copy of the package and see whether the tests fail on it, as they should."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
from fastad_kernels.native.compiler import find_compiler

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "kernels" / "fastad_kernels"
TESTS = "tests/kernels"


@dataclass(frozen=True)
class Mutation:
    """A bug, where to plant it, and the tests that have to find it.

    Attributes:
        name: What is wrong then.
        file: In `folder`.
        old: Text of the file.
        new: What takes its place.
        tests: A file below `tests/kernels`.
        keyword: The tests of that file that run, as `pytest -k` takes it.
        message: What the failure must say, a regular expression.
        count: How often `old` occurs, and is replaced.
        folder: Below `fastad_kernels`.
        slow: Whether it is left to `make planted`; some of most kernels are in every run.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    keyword: str
    message: str = ""
    count: int = 1
    folder: str = "triton"
    slow: bool = False


def parameters(mutations: Iterable[Mutation]) -> list:
    """The mutations as pytest's parameters, by name, those marked that are not for every run."""
    return [
        pytest.param(mutation, id=mutation.name, marks=[pytest.mark.slow] * mutation.slow)
        for mutation in mutations
    ]


def copy_package(folder: Path) -> Path:
    """The package, copied into `folder`."""
    package = folder / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    # The tests shall find a bug, not the check that follows compiling, which would refuse to go on.
    with (package / "native" / "trial.py").open("a") as file:
        file.write('\n\ndef prove(library):\n    return ""\n')
    return package


def plant(mutation: Mutation, folder: Path) -> None:
    """Copy the package into `folder` and change it there."""
    package = copy_package(folder)
    path = package / mutation.folder / mutation.file
    text = path.read_text()
    found = text.count(mutation.old)
    assert found == mutation.count, (
        f"mutation '{mutation.name}' no longer applies: update it. {mutation.old!r} occurs "
        f"{found} times in {mutation.file}, not {mutation.count}"
    )
    path.write_text(text.replace(mutation.old, mutation.new))


class TestBench:
    """A process that runs tests on packages, in Triton's interpreter, a GPU or not.

    Args:
        folder: For what it prints, and for a package without a bug.
        compiled: For compiled C++ kernels; others may use it at the same time.
    """

    __test__ = False  # not a class of tests

    def __init__(self, folder: Path, compiled: Path) -> None:
        self.log = folder / "log.txt"
        self.unchanged = folder / "unchanged"
        self.compiled = compiled
        self._green: dict[str, bool] = {}

    def __enter__(self) -> Self:
        environment = {
            "CUDA_VISIBLE_DEVICES": "",
            "HIP_VISIBLE_DEVICES": "",
            # Nor what others add to pytest, which takes longer to start than the tests to run.
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.compiled / "cache"),
            # Half of the time to compile; the sums are the same at every level.
            "CXXFLAGS": os.environ.get("CXXFLAGS", "") + " -O1",
        }
        compiler = find_compiler()
        if compiler is not None:
            cached = [sys.executable, str(Path(__file__).with_name("object_cache.py"))]
            environment["CXX"] = shlex.join([*cached, str(self.compiled / "objects"), *compiler])
        copy_package(self.unchanged)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("observed_tests.py"))],
            cwd=ROOT, env=os.environ | environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"),
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        # With the job that it may wait for.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def run(self, folder: Path, *tests: str) -> dict:
        """Run tests on the package in `folder`, up to the first failure.

        Args:
            folder: Where the package is, and the result will be.
            *tests: Which, as pytest takes them.

        Returns:
            What `observed_tests.Observer` holds at the end, and where the package was found.
        """
        result = folder / "result.json"
        arguments = [
            *tests, "-x", "-q", "--assert=plain",
            # The settings of the project, but for the path to the package as it is.
            "-o", "pythonpath=", "-p", "no:cacheprovider", f"--confcutdir={TESTS}",
        ]  # fmt: skip
        job = {"package_folder": str(folder), "result": str(result), "arguments": arguments}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        self.process.stdout.readline()
        assert result.exists(), f"the tests broke off:\n{self.log.read_text()}"
        outcome = json.loads(result.read_text())
        result.unlink()
        assert outcome["package"] == str(folder / PACKAGE.name), "another package was tested"
        return outcome

    def is_green(self, test: str) -> bool:
        """Whether a test passes without a bug."""
        if test not in self._green:
            self._green[test] = self.run(self.unchanged, test)["passed"] == [test]
        return self._green[test]


def assert_caught(mutation: Mutation, bench: TestBench, folder: Path) -> None:
    """A test named by the mutation says that a result is wrong with it, and passes without it."""
    plant(mutation, folder)
    outcome = bench.run(folder, f"{TESTS}/{mutation.tests}", "-k", mutation.keyword)
    # A mutation that does not even run proves nothing about the tests.
    assert not outcome["broken"], f"'{mutation.name}' broke the kernel: {outcome['broken']}"
    collected = outcome["collected"]
    assert collected, f"no test in {mutation.tests} is {mutation.keyword!r}: update it"
    assert outcome["caught"], (
        f"'{mutation.name}' went unnoticed by {len(collected)} tests of {mutation.tests}"
    )
    # Nor does a test that fails anyway.
    red = [test for test in outcome["caught"] if not bench.is_green(test)]
    assert not red, f"'{mutation.name}' proves nothing: without it these do not pass: {red}"
    said = "\n".join(outcome["caught"].values())
    assert re.search(mutation.message, said), f"caught, but not by {mutation.message!r}: {said}"
