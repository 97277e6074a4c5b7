"""What is installed from a package index: everything that the commands read, and no more."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


def run(words, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_brings_what_its_commands_read(tmp_path):
    pytest.importorskip("plotly")
    run(["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", ".", str(ROOT)], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 1_500_000
    with ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    here = {"PYTHONPATH": str(tmp_path / "installed")}
    (tmp_path / "place.py").write_text(
        "import fastad, fastad_kernels\nprint(fastad.__file__, fastad_kernels.__file__)"
    )
    found = run(["place"], tmp_path, **here).split()
    assert all(name.startswith(str(tmp_path / "installed")) for name in found)
    run(
        ["fastad", "collect", "data", "--env-options", "size=3", "episode_length=4",
         "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"],
        tmp_path, **here,
    )  # fmt: skip
    run(
        ["fastad", "train", "data", "--out", "room", "--updates", "2", "--width", "16",
         "--context", "12", "--kernels", "native"],
        tmp_path, **here,
    )  # fmt: skip
    run(["fastad", "report", "room", "--replays", "1"], tmp_path, **here)
    assert (tmp_path / "room-report.html").stat().st_size > 100_000
    run(["fastad", "bench", "loader", "--quick"], tmp_path, **here)
