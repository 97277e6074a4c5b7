import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastad.executors.lease
from fastad.base.errors import UserError
from fastad.base.files import replace_durably
from fastad.executors.lease import LEASE_FILE, Lease, revoke

# Works for as long as the lease lasts, and says when it has begun.
WORKER = """
import sys, time
from pathlib import Path
from fastad.executors.lease import Lease
with Lease(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])).watched():
    print("at work", flush=True)
    time.sleep(float(sys.argv[4]))
"""


def begin(lease: Lease, seconds: float = 600) -> subprocess.Popen:
    arguments = [str(lease.file), lease.token, str(lease.patience), str(seconds)]
    command = [sys.executable, "-c", WORKER, *arguments]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "at work\n"
    return worker


def test_a_worker_ends_when_another_takes_the_folder_over(tmp_path: Path) -> None:
    lease = Lease.of(tmp_path)
    with lease.held():
        worker = begin(lease)
        revoke(tmp_path)
        with Lease.of(tmp_path).held():
            assert worker.wait(timeout=60) == 1


def test_a_holder_leaves_the_lease_of_whoever_took_the_folder_over_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastad.executors.lease, "BEAT", 0.01)
    mine, theirs = Lease.of(tmp_path), f"{'another' * 8}\n".encode()
    with mine.held():
        replace_durably(mine.file, theirs)
        time.sleep(0.5)  # dozens of beats
        assert mine.file.read_bytes() == theirs
    assert mine.file.read_bytes() == theirs


def test_a_lease_is_kept_through_what_a_network_file_system_does_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastad.executors.lease, "BEAT", 0.01)
    lease = Lease.of(tmp_path)
    with lease.held():
        content = lease.file.read_bytes()
        replace_durably(lease.file, b"")
        time.sleep(0.2)
        replace_durably(lease.file, content)
        deadline = time.monotonic() + 60
        while lease.file.read_bytes() == content:  # until it beats again
            assert time.monotonic() < deadline

    def fail(self: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(RuntimeError, match="of the block"), lease.held():
        raise RuntimeError("of the block")


def test_a_worker_ends_when_its_lease_is_silent_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(tmp_path / LEASE_FILE, "mine", 4.0)
    monkeypatch.setattr(fastad.executors.lease, "BEAT", 0.2)
    with lease.held():
        assert begin(lease, seconds=6).wait(timeout=60) == 0  # longer than its patience
        content = lease.file.read_bytes()
        worker = begin(lease)
    lease.file.write_bytes(content)  # as a dead holder leaves it
    assert worker.wait(timeout=60) == 1


def test_a_lease_that_is_not_there_names_the_host_that_lacks_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastad.executors.lease, "ARRIVAL", 0.0)
    with pytest.raises(UserError, match=r"the worker on .* use a folder that all hosts share"):
        Lease.of(tmp_path / "elsewhere").watched().__enter__()
    with Lease.of(tmp_path).held():
        began = time.monotonic()
        with pytest.raises(UserError, match="does not find"):
            Lease.of(tmp_path).watched().__enter__()  # another's: it will not come
        assert time.monotonic() - began < fastad.executors.lease.PATIENCE
    assert not (tmp_path / LEASE_FILE).exists()
