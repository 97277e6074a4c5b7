"""Results: checked before the work, written whole, never over others."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastad.base.errors import UserError
from fastad.base.outputs import check_output, write_output, write_result


def test_results_of_one_moment_get_names_of_their_own(tmp_path):
    folder = tmp_path / "rollouts"
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda i: write_result(folder, "now-test", {"i": i}), range(40)))
    assert len(set(files)) == 40
    assert [json.loads(file.read_text())["i"] for file in files] == list(range(40))
    names = {"now-test.json", *(f"now-test-{i}.json" for i in range(2, 41))}
    assert {file.name for file in folder.iterdir()} == names


def test_a_name_that_a_killed_process_began_with_is_not_taken(tmp_path):
    (tmp_path / "now.json.tmp").write_text('{"half')
    assert write_result(tmp_path, "now", {"a": 1}).name == "now-2.json"
    assert (tmp_path / "now.json.tmp").read_text() == '{"half'


def test_checking_leaves_nothing_behind(tmp_path):
    check_output("json", tmp_path / "new" / "folder" / "x.json")
    check_output("plot", tmp_path / "x.PNG", suffixes=(".png",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.jpeg", "x", ".png"])
def test_a_kind_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"of no kind that can be written; end it with \.png"):
        check_output("plot", tmp_path / name, suffixes=(".png",))


def test_a_link_keeps_pointing_where_it_pointed(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_output(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/stdout")
def test_a_pipe_takes_the_figures_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = (
        "import sys; from pathlib import Path; from fastad.base.outputs import *; "
        "file = Path(sys.argv[1]); check_output('json', file); write_output(file, {'a': 1})"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(pipe)])
    assert json.loads(pipe.read_text()) == {"a": 1}
    assert writer.wait(timeout=60) == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_was_there_stays_if_the_new_cannot_be_written(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("old")
    with pytest.raises(TypeError, match="cannot be stored as JSON"):
        write_output(file, {"a": object()})
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_keeps_lists_of_numbers_on_a_line(tmp_path):
    values = {"a": [1, 2.5], "b": {"c": [[1, 2], [3, 4]], "d": {}}, "e": [], "f": "[ 1 ]"}
    write_output(tmp_path / "f.json", values)
    text = (tmp_path / "f.json").read_text()
    assert json.loads(text) == values
    assert '  "a": [1, 2.5],\n  "b": {\n    "c": [\n      [1, 2],\n' in text
