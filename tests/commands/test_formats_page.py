"""What docs/formats.md shows is run as it stands, one after the other."""

import re
import shlex
from pathlib import Path

import pytest

import fastad
from fastad.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
EXAMPLES = re.compile(r"```python\n(?P<script>.*?)```|^    (?P<command>fastad [^\n]+)", re.S | re.M)
# In place of what is downloaded, and of an environment that needs JAX.
MODULE = "from xland_file import SymbolRoom as Task\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder, but for a file and an environment in XLand's likeness."""
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "histories"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import xland_file

    (tmp_path / "my_xland.py").write_text(MODULE)
    data = fastad.collect(
        out="xland-data", env="xland_file:Room",
        env_options={"tasks": {"ruleset_id": [0, 24]}, "episode_length": 6}, source="actor-critic",
        num_histories=24, num_episodes=8, num_test_tasks=13, num_validation_tasks=0,
        labels=("final",),
    )  # fmt: skip
    xland_file.write_xland(tmp_path / "xland-trivial-20b.hdf5", data)


@pytest.mark.slow
def test_the_page_s_commands_and_scripts_run_as_written(place):
    for module in ("minari", "pyarrow", "pandas"):
        pytest.importorskip(module)
    shown = [*EXAMPLES.finditer(PAGE.read_text())]
    assert sum(example["command"] is not None for example in shown) == 12
    for example in shown:
        if example["command"]:
            _, *words = shlex.split(example["command"])
            assert main(words) == 0, example["command"]
        else:
            exec(compile(example["script"], str(PAGE), "exec"), {})
    datasets = [
        fastad.HistoryDataset(f"data/room{kind}") for kind in ("", "-again", "-from-parquet")
    ]
    assert len({dataset.fingerprint() for dataset in datasets}) == 1
    assert fastad.HistoryDataset("data/ten").num_histories == 10
