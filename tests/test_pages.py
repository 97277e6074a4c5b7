"""README and docs/: every command is one that fastad has, and pages run as they stand."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fastad
from fastad.base.provenance import versions
from fastad.cli import _command, main
from fastad.histories.schema import INFO_FILE
from tests.pages import NOTEBOOK, PAGES, PROGRAMS, ROOT, blocks, commands, digest, quick

DOCS = ROOT / "docs"
TUTORIAL, TRACKERS = DOCS / "tutorial.md", DOCS / "trackers.md"
# Which test runs a page's Python; the README's and the tutorial's commands are run as well.
PYTHON_RUN_BY = {
    "README.md": "tests/test_examples.py",
    "tutorial.md": "tests/test_pages.py",
    "formats.md": "tests/commands/test_formats_page.py",
}
# Commands of the README that the slow tier does not run as written, and why.
NOT_RUN = {
    "fastad bench": "an hour, and more than our own packages",
    "fastad bench rollout": "as well",
    "fastad compare": "5 to 60 minutes each; benchmarks/results/science has what they printed",
    "fastad collect data/big": "wants Ray; docs/clusters.md has its own test",
    "fastad rollout runs/room --watch": "wants a terminal; tests/reports/test_watch.py has its own",
    "make": "what starts the tests",
    "pip": "installs into the environment of whoever tests",
    "tensorboard": "serves until it is stopped",
    "fastad collect data/on-": "wants a cluster; docs/clusters.md has its own test",
    "fastad collect data/by-submitit": "as well",
}
# Pages whose commands follow no other page's: they run on small data of the names that they have.
BY_THEMSELVES = (
    "algorithm-distillation", "clusters", "many-devices", "report", "trackers", "troubleshooting",
)  # fmt: skip
METHODS = {
    "ad": (), "expert-distillation": ("--window", "8"), "decision-transformer": ("--window", "8"),
    "dpt": (), "rl2": ("--window", "8", "--batch-size", "4"),
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_can_be_typed(page):
    """Flags, values and words; what it does is up to the tests that run it."""
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *words in commands(page):
        if program == "torchrun":
            program, words = "fastad", words[words.index("train") :]
        if program == "fastad" and words[0] != "--version":
            _command([word for word in words if word not in ("DATA", "RUN")])
        elif program == "make":
            assert all(word in rules or "=" in word for word in words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_run_by_a_test(page):
    shown = [block for block in blocks(page) if block.kind == "python"]
    assert not shown or page.name in PYTHON_RUN_BY
    for block in shown:
        compile(block.text, str(page), "exec")


def test_what_looks_like_a_command_is_found():
    found = [words[0] for page in PAGES for words in commands(page)]
    assert set(found) == set(PROGRAMS)
    assert found.count("fastad") > 40


def walk(page, *, quickly=False):
    """Follow a page in an empty folder: Python is run, or saved where the page says so."""
    environment = True
    for block in blocks(page):
        if block.kind == "python" and environment:
            (saved,) = re.findall(r"as `(\w+\.py)`", page.read_text())
            with open(saved, "w") as file:
                file.write(block.text)
            environment = False
        elif block.kind == "python":
            names = runpy.run_path(saved_script(block.text, quickly))
        for program, *words in block.commands:
            assert program == "fastad"
            assert main(quick(words) if quickly else words) == 0
    return names


def saved_script(text, quickly):
    if quickly:
        text = text.replace("episodes=20", "episodes=2")
    with open("script.py", "w") as file:
        file.write(text)
    return "script.py"


def test_the_tutorial_can_be_followed_to_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = walk(TUTORIAL, quickly=True)
    assert names["result"].num_tasks == 9
    assert (tmp_path / "safe.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_who_follows_the_tutorial_sees_learning_in_context(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = walk(TUTORIAL)
    assert names["by_episode"][-5:].mean() > 2 * names["by_episode"][0]
    (wiped,) = (tmp_path / "runs/safe/rollouts").glob("*wiped-context.json")
    forgetful = fastad.Result.load(wiped).returns.mean(axis=0)
    assert forgetful[-5:].mean() < 0.5 * names["by_episode"][-5:].mean()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_readme_s_commands_run_as_written_one_after_the_other(tmp_path, monkeypatch):
    """Half an hour: whole trainings by five methods."""
    (shown,) = (b for b in blocks(ROOT / "README.md") if "fastad methods" in b.text)
    for words in shown.commands:
        line = " ".join(words)
        if not any(line.startswith(name) for name in NOT_RUN):
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"},
            )  # fmt: skip
            assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", BY_THEMSELVES)
def test_a_page_s_commands_run_as_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in ("room", "dark-room"):
        assert main(
            ["collect", f"data/{data}", "--env-options", "size=3", "episode_length=4",
             "--num-histories", "24", "--num-episodes", "20", "--num-test-tasks", "2"]
        ) == 0  # fmt: skip
        if name not in ("many-devices", "trackers"):  # which train these themselves
            assert main(["train", f"data/{data}", "--updates", "5", "--width", "16"]) == 0
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for words in commands(DOCS / f"{name}.md"):
        line = " ".join(words)
        if any(line.startswith(left_out) for left_out in NOT_RUN):
            continue
        if " train " in line and "--resume" not in words:
            line += " --overwrite"  # a page shows several ways to make the same run
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, timeout=900,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": tools},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"


# --- the log


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    data = tmp_path_factory.mktemp("labelled") / "data"
    assert main(
        ["collect", str(data), "--env-options", "size=3", "episode_length=4", "--num-histories",
         "24", "--num-episodes", "5", "--num-test-tasks", "2", "--labels", "expert"]
    ) == 0  # fmt: skip
    return data


@pytest.mark.parametrize("method", METHODS)
def test_the_keys_of_the_log_are_those_that_the_page_documents(method, labelled, tmp_path):
    rows = re.findall(r"^\| `([a-z_]+)` \|[^|]*\| ([^|]*) \|$", TRACKERS.read_text(), re.MULTILINE)
    documented = {
        name
        for name, who in rows
        if who in ("all", "", method) or (who == "all but rl2" and method != "rl2")
    }
    trunk = () if method == "rl2" else ("--num-layers", "1", "--context", "8")
    words = ["train", str(labelled), "--out", str(tmp_path / "run"), "--method", method,
             "--width", "16", "--updates", "2", "--log-every", "1", "--threads", "1"]  # fmt: skip
    assert main([*words, *trunk, *METHODS[method]]) == 0
    written = {key for record in fastad.Run(tmp_path / "run").metrics for key in record}
    assert written == documented - {"auxiliary"}


def test_the_keys_that_some_runs_alone_write_are_documented(tmp_path):
    """The auxiliary loss, and the regret of bandits."""
    sought = {"auxiliary": ("watermaze", ["--auxiliary-weight", "0.1"], ["height=8", "width=12"]),
              "eval_regret": ("bernoulli-bandit", [], ["num_arms=3"])}  # fmt: skip
    text = TRACKERS.read_text()
    for key, (env, options, env_options) in sought.items():
        source = "random" if env == "watermaze" else "ucb1"
        data, run = str(tmp_path / f"{key}-data"), str(tmp_path / key)
        if env == "watermaze":
            env_options = ["episode_length=4", *env_options]
        assert main(["collect", data, "--env", env, "--env-options", *env_options, "--source",
                     source, "--num-histories", "8", "--num-episodes", "4", "--num-test-tasks",
                     "2", "--num-train-tasks", "4"]) == 0  # fmt: skip
        small = ["--width", "16", "--num-layers", "1", "--updates", "1", "--batch-size", "2"]
        assert main(["train", data, "--out", run, *small, "--eval-tasks", "1", *options]) == 0
        written = {k for record in fastad.Run(run).metrics for k in record}
        assert key in written
        assert all(f"| `{name}` |" in text for name in written)


# --- the site


def test_every_page_is_in_the_navigation_of_the_site():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text().split("nav:", 1)[1])
    named = set(re.findall(r"[\w/-]+\.md", str(nav)))
    assert {page.name for page in DOCS.glob("*.md")} <= named


def test_every_file_that_a_page_links_to_is_there():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    page = (tmp_path / "python" / "index.html").read_text()
    assert "num_train_tasks" in page
    assert "HistoryDataset" in page


# --- the notebook


def test_what_the_notebook_shows_came_from_its_cells():
    """Whoever changes a cell runs the notebook again: `make notebook`."""
    notebook = pytest.importorskip("nbformat").read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert notebook.metadata["ran"] == digest(notebook)


def test_the_notebook_s_cells_run(tmp_path, monkeypatch):
    """In this process, with a hundredth of the updates."""
    pytest.importorskip("pandas")
    matplotlib = pytest.importorskip("matplotlib")
    notebook = pytest.importorskip("nbformat").read(NOTEBOOK, 4)
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            quick = cell.source
            for there, here in (("300, 1024", "3, 64"), ("episodes=15", "episodes=2"),
                                ("range(1, 16)", "range(1, 3)")):  # fmt: skip
                quick = quick.replace(there, here)
            exec(compile(quick, "cell", "exec"), names)
    assert names["result"].returns.shape[1] == 2
    assert (tmp_path / "data/room" / INFO_FILE).exists()


@pytest.mark.slow
def test_the_notebook_is_executed_and_shows_learning(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, 4)
    last = nbformat.v4.new_code_cell(
        "print(result.returns[:, -5:].mean(), forgetful.returns[:, -5:].mean(),"
        " blind.returns[:, -5:].mean(), result.returns[:, 0].mean())"
    )
    notebook.cells.append(last)
    place = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=900, resources=place).execute()
    shown = "".join(output["text"] for output in notebook.cells[-1].outputs)
    learnt, forgetful, blind, first = map(float, shown.split())
    assert learnt > 2 * max(forgetful, blind, first)


# --- the release


def test_the_version_is_that_of_everything_that_computes():
    assert re.fullmatch(r"fastad [\d.]+\S*, torch \d\S+, Python 3\.\d+\.\d+\S*", versions())


def test_the_citation_names_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == fastad.__version__
    required = {"cff-version", "message", "title", "authors"}
    assert required <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    for author in [*cited["authors"], *cited["references"][0]["authors"]]:
        assert author.keys() in ({"name"}, {"family-names", "given-names"})
