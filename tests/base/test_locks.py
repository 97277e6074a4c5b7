import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastad.base import files, locks
from fastad.base.errors import UserError
from fastad.base.locks import HELD_FILE, LOCK_FILE, folder_lock

# Takes the lock, says so, and holds it until it is told to end. NO_LOCKS takes flock away.
HOLDER = """
import sys
from pathlib import Path
if "NO_LOCKS" in sys.argv:
    import errno, fcntl
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
from fastad.base.locks import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(files, "_said", set())


@pytest.mark.parametrize("options", [(), ("NO_LOCKS",)])
def test_the_second_writer_is_told_who_is_the_first(
    tmp_path: Path, request: pytest.FixtureRequest, options: tuple[str, ...]
) -> None:
    if options:
        request.getfixturevalue("no_locks")
    with holder(tmp_path, *options) as process:
        with pytest.raises(UserError) as refused, folder_lock(tmp_path, patience=0.1):
            pass
        message = str(refused.value)
        assert f"{tmp_path} is being written by another process" in message
        assert f"process {process.pid} on {platform.node()}, since 20" in message
    with folder_lock(tmp_path, patience=5):
        pass


@pytest.mark.parametrize("options", [(), ("NO_LOCKS",)])
def test_the_lock_of_a_killed_process_is_free(
    tmp_path: Path, request: pytest.FixtureRequest, options: tuple[str, ...]
) -> None:
    if options:
        request.getfixturevalue("no_locks")
    with holder(tmp_path, *options) as process:
        process.kill()
        process.wait()
        with folder_lock(tmp_path, patience=1):
            pass


def test_a_lock_that_is_released_leaves_an_empty_file(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_one_process_cannot_lock_twice(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path),
        pytest.raises(UserError, match=f"process {os.getpid()} on"),
        folder_lock(tmp_path, patience=0),
    ):
        pass


def test_waiting_for_a_lock_opens_no_more_and_more_files(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(UserError), folder_lock(tmp_path, patience=0.5):
            pass
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_works_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(files, "_said", set())
    for _ in range(2):
        with folder_lock(tmp_path):
            assert (tmp_path / HELD_FILE).exists()
        assert not (tmp_path / HELD_FILE).exists()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}: its file system has no locks")


@pytest.mark.parametrize(
    "change",
    [{"place": ["elsewhere"]}, {"process": "x"}, {"process": None}],
)
def test_without_locks_a_holder_elsewhere_is_never_taken_for_dead(
    tmp_path: Path, no_locks: None, change: dict[str, object]
) -> None:
    with folder_lock(tmp_path):
        holder = json.loads((tmp_path / HELD_FILE).read_text())
    (tmp_path / HELD_FILE).write_text(json.dumps(holder | {"process": 2**22 + 1} | change))
    with (
        pytest.raises(UserError, match=f"if it runs no more, delete {tmp_path / HELD_FILE}"),
        folder_lock(tmp_path, patience=0),
    ):
        pass


def test_without_locks_a_number_that_was_given_to_another_process_is_dead(
    tmp_path: Path, no_locks: None
) -> None:
    with folder_lock(tmp_path):
        holder = json.loads((tmp_path / HELD_FILE).read_text())
    (tmp_path / HELD_FILE).write_text(json.dumps(holder | {"began": "1"}))
    with folder_lock(tmp_path, patience=1):
        pass


def test_a_holder_that_wrote_nonsense_is_refused_without_it(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        for content in (b"", b"\xff\x1b[2J", b"[" * 4000, b"x" * 10_000, b"[]"):
            (tmp_path / LOCK_FILE).write_bytes(content)
            with (
                pytest.raises(UserError, match="it has not said which"),
                folder_lock(tmp_path, patience=0),
            ):
                pass


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_a_lock_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / LOCK_FILE).symlink_to("/etc/passwd")
    with (
        pytest.raises(UserError, match="is a symbolic link, not a lock"),
        folder_lock(tmp_path / "a"),
    ):
        pass
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / LOCK_FILE)
    with pytest.raises(UserError, match="is a pipe, not a lock"), folder_lock(tmp_path / "b"):
        pass


def test_an_error_in_the_block_frees_the_lock(tmp_path: Path) -> None:
    def fail() -> None:
        with folder_lock(tmp_path):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    with folder_lock(tmp_path, patience=0):
        pass
    assert locks.LOCK_FILES[0] == LOCK_FILE
