"""Shards on a real Ray cluster of this machine, and on jobs of submitit: workers and driver die."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastad.cli import main
from fastad.executors.lease import Lease
from fastad.executors.registry import make_executor
from fastad.histories.jobs import collect
from fastad.histories.meta import ShardMeta, shard_path

SETTINGS: dict[str, Any] = {
    "env": "dark-room",
    "env_kwargs": {"size": 5, "episode_length": 6},
    "source": "q-learning",
    "num_histories": 400,
    "num_episodes": 1500,
    "num_train": 8,
    "num_test": 4,
    "shards": 2,
    "seed": 5,
}
OPTIONS = [
    "--env-options", "size=5", "episode_length=6", "--source", "q-learning", "--num-histories",
    "400", "--num-episodes", "1500", "--num-train-tasks", "8", "--num-test-tasks", "4",
    "--shards", "2", "--seed", "5", "--workers", "2",
]  # fmt: skip
WHERE: dict[str, dict[str, Any]] = {
    "ray": {"executor": "ray"},
    "slurm": {"executor": "slurm", "executor_options": {"cluster": "local"}},
}
NUM_STEPS = 1500 * 6
FLAGS = {"ray": [], "slurm": ["--executor-options", "cluster=local"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two CPUs that stay, as a program has them that uses Ray for other things as well."""
    pytest.importorskip("ray")
    home = tmp_path_factory.mktemp("cluster")
    with make_executor("ray", {}).start(2, Lease.of(home), home):
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    path = tmp_path_factory.mktemp("local") / "data"
    collect(path, **SETTINGS)
    return digests(path)


@pytest.fixture
def where(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "ray":
        request.getfixturevalue("cluster")
    else:
        pytest.importorskip("submitit")
    return name


def digests(path: Path) -> list[dict[str, str]]:
    """Of every column of every shard."""
    metas = [ShardMeta.load(shard_path(path, index)) for index in range(SETTINGS["shards"])]
    assert all(meta is not None and meta.digests for meta in metas)
    return [meta.digests for meta in metas if meta is not None]


def writers(path: Path) -> list[int]:
    """Processes in the first half of a shard, by the locks that they hold on them."""
    found = []
    for shard in path.glob("shard-*"):
        with suppress(ValueError, FileNotFoundError):
            pid = json.loads((shard / ".fastad-lock").read_text())["process"]
            meta = ShardMeta.load(shard)
            if meta is not None and 0 < meta.committed_steps <= NUM_STEPS // 2:
                found.append(pid)
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def is_gone(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ray", "slurm"], indirect=True)
def test_a_killed_worker_costs_nothing_but_its_time(
    where: str, tmp_path: Path, expected: list[dict[str, str]]
) -> None:
    out = tmp_path / "data"
    killed: list[int] = []

    def kill() -> None:
        (pid, *_) = wait_for(lambda: writers(out))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    reports: list[int] = []
    collect(
        out, workers=2, retries=1, progress=lambda done, total: reports.append(done),
        **WHERE[where], **SETTINGS,
    )  # fmt: skip
    killer.join(timeout=1)
    assert len(killed) == 1
    assert digests(out) == expected
    attempts = [ShardMeta.load(shard_path(out, i)).attempt for i in range(2)]  # type: ignore[union-attr]
    assert max(attempts) == 2
    assert (reports[0], reports[-1]) == (0, 400 * NUM_STEPS)
    left = {path.name for path in tmp_path.iterdir()} | {path.name for path in out.iterdir()}
    assert left == {
        "data", "dataset.json", "tasks.npy", "shard-00000", "shard-00001", ".fastad-dataset",
        ".fastad-lock",
    }  # fmt: skip


def start(out: Path, where: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fastad", "collect", str(out), *OPTIONS]
    command += ["--executor", where, *FLAGS[where]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ray", "slurm"])
def test_a_second_collection_takes_over_from_one_that_was_killed(
    where: str, tmp_path: Path, expected: list[dict[str, str]]
) -> None:
    out = tmp_path / "data"
    with start(out, where) as driver:
        wait_for(lambda: writers(out) or driver.poll() is not None)
        assert driver.poll() is None
        driver.kill()
    resumed = ["collect", str(out), *OPTIONS, "--resume", "--executor", where, *FLAGS[where]]
    assert main(resumed) == 0
    assert digests(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ray", "slurm"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_collection_leaves_nobody_at_work_and_is_finished_elsewhere(
    where: str, number: int, tmp_path: Path, expected: list[dict[str, str]]
) -> None:
    out = tmp_path / "data"
    with start(out, where) as driver:
        wait_for(lambda: writers(out) or driver.poll() is not None)
        assert driver.poll() is None
        at_work = writers(out)
        driver.send_signal(number)
        _, said = driver.communicate(timeout=120)
    assert driver.returncode == 128 + number
    assert said.splitlines()[-1].endswith("--resume")
    assert all(is_gone(pid) for pid in at_work)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert main(["collect", str(out), *OPTIONS, "--resume"]) == 0
    assert digests(out) == expected
