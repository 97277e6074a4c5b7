import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastad.base.errors import UserError
from fastad.executors.local import run_jobs


def write(path: Path, name: str) -> Iterator[int]:
    (path / name).write_text(str(os.getpid()))
    yield 1
    yield ord(name)


def hang(path: Path, name: str) -> Iterator[int]:
    (path / name).write_text(str(os.getpid()))
    yield 7
    while True:
        time.sleep(600)


def die(path: Path, name: str) -> Iterator[int]:
    yield 1
    os._exit(1)


def refuse(path: Path, name: str) -> Iterator[int]:
    yield 1
    raise ValueError(name)


def test_every_job_is_run_on_another_process(tmp_path: Path) -> None:
    *_, far = run_jobs(write, [(tmp_path, name) for name in "abc"], num_processes=2)
    assert far == [97, 98, 99]  # what each told last
    workers = {int((tmp_path / name).read_text()) for name in "abc"}
    assert os.getpid() not in workers


def test_workers_end_at_once_when_their_work_is_no_longer_wanted(tmp_path: Path) -> None:
    jobs = run_jobs(hang, [(tmp_path, "a")], num_processes=1, poll_seconds=0.1)
    while next(jobs) != [7]:  # it tells while it works
        pass
    jobs.close()  # the job itself would never end
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "a").read_text()), 0)


def test_an_error_in_a_job_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="b"):
        list(run_jobs(refuse, [(tmp_path, "b")], num_processes=1))


def test_a_dead_worker_is_reported_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run again with --resume, and with fewer workers"):
        list(run_jobs(die, [(tmp_path, "c")], num_processes=1))
