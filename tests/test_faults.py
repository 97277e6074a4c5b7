"""What the operating system refuses, caused for real: one line, exit code 2, nothing lost."""

import ctypes
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from fastad.base.errors import memory_error, os_error
from fastad.cli import main
from fastad.training.checkpoint import load_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are caused as Linux does")

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
MODEL = ["--width", "16", "--num-layers", "1", "--context", "12", "--threads", "1"]
SHORT = [*MODEL, "--updates", "4"]
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    assert main(["collect", str(folder / "data"), *COLLECT]) == 0
    assert main(["train", str(folder / "data"), "--out", str(folder / "run"), *SHORT]) == 0
    return folder


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 192 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def one_line(capsys, *arguments):
    """Run a command that must fail; returns its only line of complaint."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastad: ")
    return line


def fails(capsys, *arguments):
    """The same, and the line ends with what to do."""
    line = one_line(capsys, *arguments)
    assert "; " in line
    return line


def checked(errors):
    (line,) = errors.splitlines()
    assert line.startswith("fastad: ")
    assert "; " in line
    return line


def start(*arguments, before=None, **variables):
    return subprocess.run(
        [sys.executable, "-m", "fastad", *map(str, arguments)], preexec_fn=before,
        capture_output=True, text=True, env={**os.environ, **variables}, timeout=120,
    )  # fmt: skip


def obey_permissions():
    """Make root obey permissions, as everybody else does."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@contextmanager
def few_descriptors(spare):
    """Leave this process `spare` descriptors to open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, limits[1]))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(held.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


# --- disks


def test_a_full_disk_ends_training_with_the_last_whole_checkpoint(world, full_disk, capsys):
    run = full_disk / "run"
    sizes = [*MODEL, "--updates", "40", "--checkpoint-every", "1", "--log-every", "1"]
    complaint = fails(
        capsys, "train", world / "data", "--out", run, *sizes, "--width", "32", "--num-layers", "2"
    )
    assert f"out={run}: " in complaint
    assert "No space left on device; free some space there" in complaint
    left = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert all(name.startswith("step-") and not name.endswith(".part") for name in left)
    if left:
        load_model(run)


def test_a_full_disk_ends_collecting_and_the_rest_can_be_collected_elsewhere(full_disk, capsys):
    large = [*ROOM, "--num-histories", "2000", "--num-episodes", "40", "--num-test-tasks", "2"]
    complaint = fails(capsys, "collect", full_disk / "data", *large)
    assert f"{full_disk / 'data'}" in complaint
    assert "No space left on device" in complaint


def test_a_full_disk_is_noticed_before_a_rollout(world, full_disk, capsys):
    with pytest.raises(OSError, match="No space"):
        (full_disk / "rest").write_bytes(bytes(2**20))
    complaint = fails(capsys, "rollout", world / "run", "--json", full_disk / "figures.json")
    assert f"json={full_disk / 'figures.json'}: {full_disk}: No space left" in complaint
    assert not (world / "run" / "rollouts").exists()


def test_a_limit_on_the_size_of_files_is_one_line(world, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    done = start("train", world / "data", "--out", tmp_path / "run", *SHORT, before=limit)
    assert done.returncode == 2, done.stderr
    assert "File too large; raise the limit on the size of files (ulimit -f)" in checked(
        done.stderr
    )


def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fastad", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "No space left on device" in checked(done.stderr)


# --- permissions


def test_a_run_that_cannot_be_written_to_is_rolled_out_into_a_file(world, tmp_path):
    run, figures = tmp_path / "run", tmp_path / "figures.json"
    shutil.copytree(world / "run", run)
    run.chmod(0o555)
    arguments = ["rollout", run, "--episodes", "2", "--threads", "1"]
    done = start(*arguments, before=obey_permissions)
    assert done.returncode == 2
    assert f"run={run}: {run.resolve()}: Permission denied" in checked(done.stderr)
    assert "or name a file for the results with --json" in done.stderr
    done = start(*arguments, "--json", figures, before=obey_permissions)
    assert done.returncode == 0, done.stderr
    assert f"they go to {figures}" in done.stdout
    assert len(json.loads(figures.read_text())["returns"]) == 2
    assert figures.with_suffix(".png").exists()
    assert not (run / "rollouts").exists()


def test_a_folder_that_cannot_be_written_to_is_one_line(world, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    commands = {
        "out=": ["train", world / "data", "--out", locked / "run", *SHORT],
        "json=": ["demo", "--json", locked / "x.json"],
    }
    for field, arguments in commands.items():
        done = start(*arguments, before=obey_permissions)
        assert done.returncode == 2, done.stderr
        assert f"{field}{locked}" in checked(done.stderr)
        assert "Permission denied; change its permissions" in done.stderr


# --- names and places


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["collect", LONG],
        ["train", "DATA", "--out", LONG],
        ["train", LONG],
        ["rollout", LONG],
        ["rollout", "RUN", "--json", LONG],
        ["rollout", "RUN", "--plot", f"{LONG}.png"],
        ["rollout", "RUN", "--save-histories", LONG],
        ["inspect", LONG],
        ["inspect", "RUN", "--json", LONG],
        ["demo", "--out", LONG],
        ["demo", "--json", LONG],
        ["bench", "train", "--json", LONG],
        ["bench", "train", "--out", LONG],
        ["train", "--config", f"{LONG}.yaml"],
    ],
)
def test_a_name_that_is_too_long_is_one_line(world, tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    places = {"DATA": world / "data", "RUN": world / "run"}
    complaint = fails(capsys, *(places.get(a, a) for a in arguments))
    assert "File name too long" in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["collect", "FILE/data", *COLLECT],
        ["train", "DATA", "--out", "FILE/run", *SHORT],
        ["rollout", "RUN", "--json", "FILE/x.json"],
        ["rollout", "RUN", "--plot", "FILE/x.png"],
        ["demo", "--json", "FILE/x.json"],
        ["bench", "train", "--json", "FILE/x.json"],
        ["inspect", "RUN", "--json", "FILE/x.json"],
    ],
)
def test_a_file_where_a_folder_should_be_is_one_line(world, tmp_path, capsys, arguments):
    file = tmp_path / "file"
    file.write_text("precious")
    places = {"DATA": str(world / "data"), "RUN": str(world / "run")}
    named = [places.get(a, a.replace("FILE", str(file))) for a in arguments]
    assert "Not a directory; a file stands where a folder is needed" in fails(capsys, *named)
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "FOLDER"], "is a folder; name a file"),
        (["--plot", "FOLDER"], "of no kind that can be written; end it with .png or .pdf or .svg"),
        (["--plot", "x.foo"], "plot=x.foo is of no kind that can be written; end it with .png"),
        (["--plot", "picture"], "plot=picture is of no kind that can be written; end it with"),
        (["--seed", "-1"], "seed=-1 must be between 0 and 2^40; choose another"),
        (["--seed", str(2**40)], "must be between 0 and 2^40; choose another"),
    ],
)
def test_a_rollout_that_could_not_be_stored_does_not_begin(
    world, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    named = [a.replace("FOLDER", str(tmp_path)) for a in arguments]
    assert message in fails(capsys, "rollout", world / "run", *named)
    assert not (world / "run" / "rollouts").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "backend",
    ["module://matplotlib_inline.nowhere", pytest.param("nonsense", marks=pytest.mark.slow)],
)
def test_a_notebooks_plotting_backend_costs_no_rollout(world, tmp_path, backend):
    run, picture = tmp_path / "run", tmp_path / "p.pdf"
    shutil.copytree(world / "run", run)  # others see that nothing is kept in theirs
    arguments = ["rollout", run, "--episodes", "1", "--threads", "1", "--plot", picture]
    done = start(*arguments, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"%PDF")


# --- limits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "NEW", "--seed", "-1"], "seed=-1 must be between 0 and 2^40"),
        (["demo", "--seed", "-1"], "seed=-1 must be between 0 and 2^40"),
        (["train", "NEW", "--updates", str(10**13)], "updates=10000000000000 is too large; use"),
        (["rollout", "NEW", "--tasks", str(2**40)], "tasks=1099511627776 is too large; use less"),
        (["train", "NEW", "--threads", str(10**9)], "threads=1000000000 must be at most 4,096"),
        (["train", "NEW", "--mlp-width", "-1"], "mlp_width=-1 must be at least 1"),
        (["collect", "NEW", "--env-options", f"size={5000 * '9'}"], "cannot be read; try quotes"),
    ],
)
def test_numbers_that_no_generator_takes_are_one_line(
    tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in one_line(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_met_by_a_worker_is_one_line_too(full_disk, capsys):
    large = [*ROOM, "--num-histories", "2000", "--num-episodes", "40", "--num-test-tasks", "2"]
    complaint = fails(capsys, "collect", full_disk / "data", *large, "--workers", "2")
    assert "No space left on device" in complaint


def test_too_many_open_files_is_one_line(world, capsys):
    arguments = ["inspect", str(world / "data")]
    assert main(arguments) == 0  # everything is imported now
    with few_descriptors(0):
        assert main(arguments) == 2
    complaint = checked(capsys.readouterr().err)
    assert "Too many open files; raise the limit on open files (ulimit -n)" in complaint


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "DATA", "--out", "NEW", "--width", str(10**12)],
        ["train", "DATA", "--out", "NEW", "--batch-size", str(10**12), *MODEL],
        ["rollout", "RUN", "--rollouts-per-task", str(10**12)],
    ],
)
def test_absurd_sizes_are_one_line(world, tmp_path, capsys, arguments):
    places = {"DATA": world / "data", "RUN": world / "run", "NEW": tmp_path / "new"}
    complaint = fails(capsys, *(places.get(a, a) for a in arguments))
    assert "ask for less at once, or use a machine with more memory" in complaint


def test_every_number_of_an_error_gives_a_fix():
    for number, name in errno.errorcode.items():
        line = str(os_error(OSError(number, os.strerror(number), "/x/y"), "out=/x"))
        assert line.startswith(f"out=/x: /x/y: {os.strerror(number)}; "), name


def test_an_error_that_is_not_about_memory_is_none_of_the_users():
    assert memory_error(RuntimeError("shapes do not match")) is None
    assert "no memory left" in str(memory_error(MemoryError()))
