"""What `make` installs can be resolved by a user who has the public package index alone."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_constraints_resolve_from_the_public_index_alone(python, tmp_path):
    """For `make demo`, `make test` and `make bench`: torch's own wish for Triton included."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["dev"], *extras["bench"]]
    # No index, no folder of wheels and no constraint of this machine's; its certificates may stay.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") or name == "PIP_CERT"
    }
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
            "--python-version", python, "--only-binary", ":all:", "--target", str(tmp_path),
            "--constraint", str(ROOT / "constraints.txt"), *wanted,
        ],
        env=environment | {"PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_python_named_in_the_project_is_one_that_is_resolved():
    named = [
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["classifiers"]
        if classifier.startswith("Programming Language :: Python :: 3.")
    ]
    assert tuple(named) == PYTHONS


def test_constraints_pin_what_the_project_allows_and_nothing_else():
    """A pin outside the declared range, or of a package that nothing asks for, helps nobody."""
    packaging = pytest.importorskip("packaging.requirements")
    canonical = pytest.importorskip("packaging.utils").canonicalize_name
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    ranges = {canonical(r.name): r.specifier for r in map(packaging.Requirement, asked)}
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for pin in map(packaging.Requirement, lines):
        assert canonical(pin.name) in ranges
        for version in (s.version for s in pin.specifier if s.operator in ("==", ">=")):
            assert ranges[canonical(pin.name)].contains(version), pin
