"""Threads: no more than may run at once, and waiting asleep unless the user says otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastad.base import device, processors
from fastad.base.device import set_threads
from fastad.base.errors import UserError
from fastad.base.processors import Processors, find_processors
from fastad.histories.jobs import collect


def in_groups(tmp_path: Path, lines: str, files: dict[str, str]) -> Processors:
    """What is found where /proc and the control groups hold this."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(lines)
    for name, content in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(content)
    return find_processors(proc, cgroups)


def test_a_container_s_quota_is_at_the_root_it_sees(tmp_path):
    assert in_groups(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n"}).quota == 1.5


def test_the_tightest_quota_on_the_way_up_counts(tmp_path):
    files = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "cpu.max": "max 100000"}
    assert in_groups(tmp_path, "0::/a/b\n", files).quota == 2.0


def test_control_groups_of_the_first_version_are_read(tmp_path):
    files = {"cpu/docker/x/cpu.cfs_quota_us": "50000", "cpu/docker/x/cpu.cfs_period_us": "100000"}
    lines = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n"
    assert in_groups(tmp_path, lines, files).quota == 0.5


def test_no_quota_is_none(tmp_path):
    files = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    assert in_groups(tmp_path, "4:cpu:/\n0::/elsewhere\n", files).quota is None


@pytest.mark.parametrize(
    ("allowed", "quota", "usable"),
    [(8, None, 8), (8, 2.0, 2), (2, 6.0, 2), (8, 1.5, 1), (8, 0.5, 1)],
)
def test_usable_threads_are_whole_processors_and_at_least_one(allowed, quota, usable):
    assert Processors(16, allowed, quota).usable == usable


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_affinity_limits_the_threads():
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "from fastad.base.device import set_threads; print(set_threads())",
        ],
        capture_output=True, text=True, check=True,
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
    )  # fmt: skip
    assert done.stdout == "1\n"


@pytest.fixture
def kept_threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_a_quota_limits_the_default_but_not_who_names_a_number(kept_threads, monkeypatch):
    monkeypatch.setattr(device, "find_processors", lambda: Processors(64, 64, 1.0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    assert set_threads() == 1
    assert set_threads(3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set_threads() == 3


def test_no_threads_at_all_are_refused():
    with pytest.raises(UserError, match="threads=0 must be at least 1"):
        set_threads(0)


def waiting(code: str, **environment: str) -> dict[str, str]:
    """OpenMP's settings in a fresh process that runs `code`."""
    names = (*processors.WAIT_SETTINGS, processors.OURS)
    kept = {name: value for name, value in os.environ.items() if name not in names}
    script = f"{code}; import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=kept | environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return {name: value for name, value in json.loads(done.stdout).items() if name in names}


def test_threads_wait_passively_once_fastad_is_imported():
    got = waiting("import fastad")
    assert got == {"OMP_WAIT_POLICY": "PASSIVE", "FASTAD_WAITS_PASSIVELY": "1"}


@pytest.mark.parametrize("name", processors.WAIT_SETTINGS)
def test_a_user_s_own_way_of_waiting_stays(name):
    assert waiting("import fastad", **{name: "5"}) == {name: "5"}


def test_too_late_nothing_is_claimed():
    """OpenMP read its settings when torch was imported; to set them now would only look well."""
    assert waiting("import sys; sys.modules['torch'] = None; import fastad") == {}


def test_the_doctor_says_who_decided(monkeypatch):
    for name in (*processors.WAIT_SETTINGS, processors.OURS):
        monkeypatch.delenv(name, raising=False)
    assert "spinning, since torch was imported before fastad" in processors.describe_waiting()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert processors.describe_waiting() == "OMP_WAIT_POLICY=ACTIVE, set by you"
    # In a child of a process that fastad set up, whose user then chose otherwise.
    monkeypatch.setenv(processors.OURS, "1")
    assert processors.describe_waiting() == "OMP_WAIT_POLICY=ACTIVE, set by you"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert processors.describe_waiting().startswith("spinning")


def test_collecting_takes_one_thread_and_gives_the_others_back(kept_threads, tmp_path):
    torch.set_num_threads(2)
    seen = []
    collect(
        tmp_path / "data", env="dark-room", source="random", num_histories=4, num_episodes=1,
        num_test=2, progress=lambda done, total: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert seen[-1] == 1
    assert torch.get_num_threads() == 2
