"""What the README and the docstrings show from Python is run as it stands."""

import doctest
import re
import runpy
import shlex
from pathlib import Path

import pytest

import fastad
from fastad.cli import main
from fastad.histories.meta import ShardMeta
from tests.pages import quick

README = Path(__file__).parents[1] / "README.md"
CLUSTERS = README.parent / "docs" / "clusters.md"


@pytest.mark.timeout(1800)  # without a compiler, on a busy machine
def test_the_readme_s_script_runs_as_written_and_what_it_shows_is_learnt(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("pandas")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (script,) = (block for block in blocks if "fastad.collect" in block)
    assert script.count("\n") <= 15
    (tmp_path / "script.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path("script.py")
    means = names["table"]["mean"]
    assert len(means) == 15
    assert means[15] > 3 * means[1]
    assert capsys.readouterr().out == f"{names['table']}\n"
    assert Path("small-room.png").read_bytes().startswith(b"\x89PNG")
    assert fastad.Result.load("small-room.json").num_tasks == 10


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "quickly", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["quickly", "as written"]
)
def test_the_readme_s_way_from_an_own_environment_to_a_picture(quickly, tmp_path, monkeypatch):
    """The environment, and the commands that follow it."""
    shown = re.search(
        r"```python\n(import gymnasium as gym.*?)```\n\n((?:    [^\n]*\n)+)",
        README.read_text(),
        re.DOTALL,
    )
    assert shown is not None
    environment, commands = shown.groups()
    assert environment.count("\n") + commands.count("\n") <= 25
    (tmp_path / "treasure.py").write_text(environment)
    monkeypatch.chdir(tmp_path)
    for command in commands.replace("\\\n", " ").strip().splitlines():
        program, *words = shlex.split(command)
        assert program == "fastad"
        assert main(quick(words) if quickly else words) == 0
    assert Path("treasure.png").read_bytes().startswith(b"\x89PNG")
    (kept,) = Path("runs/treasure/rollouts").glob("*.json")
    returns = fastad.Result.load(kept).returns.mean(axis=0)
    assert len(returns) > 1
    assert quickly or returns[15:].mean() > 2 * returns[:2].mean()


def test_the_docstrings_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    for shown in (
        fastad.collect,
        fastad.train,
        fastad.rollout,
        fastad.compare,
        fastad.Run,
        fastad.Result,
        fastad.histories.create,
        fastad.convert,
        fastad.histories.from_pandas,
    ):
        (example,) = doctest.DocTestFinder(recurse=False).find(shown, shown.__name__)
        assert example.examples, shown
        assert runner.run(example).failed == 0, shown


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "out"), [("ray", "on-ray"), ("submitit", "by-submitit")])
def test_the_clusters_page_s_first_commands_collect_what_one_process_does(
    extra, out, tmp_path, monkeypatch
):
    pytest.importorskip(extra)
    monkeypatch.chdir(tmp_path)
    commands = CLUSTERS.read_text().replace("\\\n", " ").splitlines()
    command = next(line for line in commands if f"fastad collect data/{out} " in line)
    _, *words = shlex.split(command)
    assert main(words) == 0
    where = words.index("--executor")
    alone = [*words[:where], "--workers", "1", *words[words.index("--shards") :]]
    alone[1] = "data/alone"
    assert main(alone) == 0
    ours, theirs = (
        [ShardMeta.load(shard).digests for shard in sorted(Path("data", name).glob("shard-*"))]
        for name in (out, "alone")
    )
    assert len(ours) == 4
    assert ours == theirs
