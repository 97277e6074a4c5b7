import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fastad.base.errors import UserError
from fastad.executors.base import Workers
from fastad.executors.lease import Lease
from fastad.executors.local import Local
from fastad.executors.registry import make_executor
from fastad.executors.run import run_jobs


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
    with (path / name).open("a") as file:
        file.write("died ")
    yield 1
    os._exit(1)


def die_once(path: Path, name: str) -> Iterator[int]:
    if name != "b" or (path / "died").exists():
        return write(path, name)
    (path / "died").write_text("")
    return die(path, "dead")


def refuse(path: Path, name: str) -> Iterator[int]:
    yield 1
    raise ValueError(name)


@contextmanager
def workers(path: Path, num: int) -> Iterator[Workers]:
    with Local().start(num, Lease.of(path), path) as started:
        yield started


def run(function, path: Path, names: str, *, num_workers: int = 1, retries: int = 0):
    with workers(path, num_workers) as crew:
        jobs = [(path, name) for name in names]
        yield from run_jobs(
            crew, function, jobs, names=[*names], num_workers=num_workers, retries=retries,
            poll_seconds=0.1,
        )  # fmt: skip


def test_every_job_is_run_on_another_process(tmp_path: Path) -> None:
    *_, far = run(write, tmp_path, "abc", num_workers=2)
    assert far == [97, 98, 99]  # what each told last
    pids = {int((tmp_path / name).read_text()) for name in "abc"}
    assert os.getpid() not in pids
    assert len(pids) == 2  # one of them did two


def test_workers_end_at_once_when_their_work_is_no_longer_wanted(tmp_path: Path) -> None:
    with closing(run(hang, tmp_path, "a")) as jobs:
        while next(jobs) != [7]:  # it tells while it works
            pass
    # The job itself would never end.
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "a").read_text()), 0)


def test_an_error_in_a_job_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="b"):
        list(run(refuse, tmp_path, "b"))


def test_a_dead_worker_costs_nobody_else_s_job(tmp_path: Path) -> None:
    *_, far = run(die_once, tmp_path, "abc", num_workers=2, retries=1)
    assert far == [97, 98, 99]
    assert (tmp_path / "dead").read_text() == "died "


def test_workers_that_die_again_and_again_are_reported_with_what_to_do(tmp_path: Path) -> None:
    message = "c: 2 workers died .*: run again with --resume, and with fewer workers"
    with pytest.raises(UserError, match=message):
        list(run(die, tmp_path, "c", retries=1))
    assert (tmp_path / "c").read_text() == "died died "


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rai", {}, "unknown executor 'rai'; did you mean 'ray'?"),
        ("local", {"cpus": 1}, "executor=local has no options"),
        ("ray", {"adress": "x"}, "'adress'; did you mean 'address'?"),
        ("ray", {"cpus": 0}, "cpus=0.0 is not possible"),
        ("slurm", {"time": "soon"}, "time='soon'"),
        ("slurm", {"memory_gb": -1}, "memory_gb=-1.0 is not possible"),
        ("slurm", {"cluster": "locl"}, "cluster='locl': Input should be 'slurm' or 'local'"),
    ],
)
def test_what_no_executor_can_do_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make_executor(name, options)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_executor_that_is_not_installed_says_how_to_install_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"fastad.executors.{name}.find_spec", lambda asked: None)
    with pytest.raises(UserError, match=rf"executor={name} needs .* pip install .*\[?{name}\]"):
        make_executor(name, {})


def test_without_slurm_s_commands_it_is_said_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr("fastad.executors.slurm.shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"no SLURM on this machine .* cluster=local"):
        make_executor("slurm", {})
