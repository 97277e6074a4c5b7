"""What CONTRIBUTING.md says of the code is so: every place that it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PLACES = re.findall(r"`([a-z_]+/[a-z_/]+\.py): ([A-Za-z_]+)`", TEXT)
MAP = re.search(r"```\nkernels/fastad_kernels/.*?```", TEXT, re.DOTALL)


def test_the_page_names_places():
    assert len(PLACES) > 15


@pytest.mark.parametrize(("file", "name"), PLACES, ids=lambda part: part)
def test_what_is_named_is_defined_there(file, name):
    tree = ast.parse((ROOT / "fastad" / file).read_text())
    assert name in {getattr(node, "name", None) for node in tree.body}


def test_every_folder_of_the_package_is_on_the_map():
    assert MAP is not None
    shown = set(re.findall(r"^  ([a-z_]+)/", MAP[0], re.MULTILINE))
    folders = {p.parent.name for p in (ROOT / "fastad").glob("*/__init__.py")}
    assert folders <= shown


def test_every_file_that_the_map_or_the_page_names_exists():
    names = {Path(name).name for name in re.findall(r"(?<!\*)\b[a-z][a-z_/]*\.py\b", TEXT)}
    existing = {p.name for top in ("fastad", "kernels", "benchmarks", "tests") for p in
                (ROOT / top).rglob("*.py")}  # fmt: skip
    assert names - existing == set()
