"""Run pytest for `planting.TestBench` and write down what kind of failures there were.

Reads one job per line from stdin: a JSON object with the keyword arguments of `run_tests`. Answers
each with a line once it is done. Jobs run in copies of this process, which by then has imported
what takes longest.
"""

import json
import os
import sys
from pathlib import Path

import pytest


class Observer:
    """Tells a test that found a wrong result from one that could not run."""

    def __init__(self):
        self.collected, self.passed = [], []
        self.caught, self.broken = {}, {}

    def pytest_collection_finish(self, session):
        self.collected = [item.nodeid for item in session.items]

    def pytest_collectreport(self, report):
        if report.failed:
            self.broken[report.nodeid] = str(report.longrepr)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            error = call.excinfo
            found = report.when == "call" and _is_finding(error.value)
            kind = self.caught if found else self.broken
            kind[item.nodeid] = f"{error.typename}: {error.value}"
        elif report.when == "call" and report.passed:
            self.passed.append(item.nodeid)
        return report


def _is_finding(error):
    """Whether an assertion failed or the address checker objected, rather than code broke."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return not names.isdisjoint({"AssertionError", "AddressError", "Failed"})


def run_tests(package_folder, result, arguments):
    """Run tests on the package in a folder; write what was observed and where it was found."""
    sys.path.insert(0, package_folder)
    observer = Observer()
    pytest.main(arguments, plugins=[observer])
    # Not before the tests: conftest.py sets up the interpreter.
    import fastad_kernels

    package = str(Path(fastad_kernels.__file__).parent)
    Path(result).write_text(json.dumps(vars(observer) | {"package": package}))


def serve():
    """Run job after job, each in a fork."""
    import torch  # noqa: F401
    import triton  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            # What pytest prints is for nobody, but for a crash, which is read from stderr.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            run_tests(**json.loads(line))
            os._exit(0)
        os.waitpid(child, 0)
        print("done", flush=True)


if __name__ == "__main__":
    serve()
