"""The cache of compiled kernels: what is loaded from it, what is not, and what takes its place."""

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastad_kernels.native import build, compiler, store, trial

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
STRANGER = 65534


@pytest.fixture
def recompiled(monkeypatch, compiled_kernels):
    """Compiling takes no time here; a list with an entry for each time that it was done."""
    calls, content = [], compiled_kernels.path.read_bytes()

    def compile_kernels(command, target):
        calls.append(command)
        target.write_bytes(content)
        return "g++ -O3"

    monkeypatch.setattr(compiler, "compile_kernels", compile_kernels)
    monkeypatch.setattr(trial, "prove", lambda library: "")
    return calls


@pytest.fixture
def read_only_cache(monkeypatch):
    """A folder that an ordinary user, for whom permissions count, can read and not write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        folder, scratch = Path(place) / "fastad", Path(place) / "tmp"
        for new, mode in ((Path(place), 0o755), (folder, 0o755), (scratch, 0o1777)):
            new.mkdir(exist_ok=True)
            new.chmod(mode)
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        monkeypatch.setenv("XDG_CACHE_HOME", place)

        @contextmanager
        def as_a_user():
            folder.chmod(0o555)
            user = os.geteuid()
            os.seteuid(user or STRANGER)
            try:
                yield folder
            finally:
                os.seteuid(user)
                folder.chmod(0o755)

        yield folder, as_a_user


def library_of(folder):
    (path,) = folder.glob("*.so")
    return path


def forget():
    for function in (build.library, build.built, build._why_unavailable):
        function.cache_clear()


def test_what_was_compiled_is_loaded_without_starting_a_process(
    full_cache, recompiled, monkeypatch
):
    monkeypatch.setattr(subprocess, "_fork_exec", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a process was started"))
    assert build.library()._name == str(library_of(full_cache))
    assert not recompiled


def test_a_compiler_that_is_gone_does_not_matter_once_it_has_compiled(
    empty_cache, recompiled, tmp_path, monkeypatch
):
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    build.built()
    fake.unlink()
    forget()
    assert build.built().path == library_of(empty_cache)
    assert len(recompiled) == 1


def test_another_version_of_the_compiler_compiles_anew(
    empty_cache, recompiled, tmp_path, monkeypatch
):
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    build.built()
    fake.write_text("#!/bin/sh\n# newer")
    forget()
    build.built()
    assert len(recompiled) == 2


def cut_off(path):
    os.truncate(path, 5000)


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


def lead_away(path):
    path.rename(path.parent.parent / "elsewhere.so")
    path.symlink_to(path.parent.parent / "elsewhere.so")


def make_a_fifo(path):
    path.unlink()
    os.mkfifo(path, 0o644)


def let_the_group_write(path):
    path.chmod(0o664)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_off, "is not what was compiled"),
        (change_a_byte, "is not what was compiled"),
        (remove, "No such file"),
        (lead_away, "Too many levels of symbolic links"),
        (make_a_fifo, "is not a plain file"),
        (let_the_group_write, "others can write to"),
        pytest.param(
            lambda path: os.chown(path, STRANGER, -1), f"another user (uid {STRANGER})",
            marks=is_root,
        ),
    ],
)  # fmt: skip
def test_a_library_that_is_not_what_was_compiled_is_made_anew_before_it_is_loaded(
    full_cache, recompiled, compiled_kernels, caplog, harm, said
):
    harm(library_of(full_cache))
    assert build.library()._name == str(library_of(full_cache))
    assert len(recompiled) == 1
    assert said in caplog.text
    assert library_of(full_cache).read_bytes() == compiled_kernels.path.read_bytes()
    assert not library_of(full_cache).is_symlink()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"library": 3}', '{"library": 1, "sha256": "", "command": ""}']
)
def test_a_damaged_manifest_is_made_anew(full_cache, recompiled, caplog, text):
    (manifest,) = full_cache.glob("*.json")
    manifest.write_text(text)
    build.library()
    assert "is damaged" in caplog.text
    assert len(recompiled) == 1
    assert set(json.loads(manifest.read_text())) >= {"library", "sha256", "command"}


def let_all_write(folder):
    folder.chmod(0o777)


def let_a_group_write(folder):
    folder.chmod(0o775)


def put_a_file_there(folder):
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (let_all_write, "others can write to"),
        (let_a_group_write, "others can write to"),
        (put_a_file_there, "is not a folder"),
        pytest.param(
            lambda folder: os.chown(folder, STRANGER, -1), f"another user (uid {STRANGER})",
            marks=is_root,
        ),
    ],
)  # fmt: skip
def test_a_folder_where_others_can_put_files_is_left_alone_and_a_private_one_used(
    full_cache, recompiled, tmp_path, caplog, harm, said
):
    harm(full_cache)
    before = full_cache.stat()
    private = tmp_path / "tmp" / f"fastad-{os.geteuid()}"
    assert build.built().path.parent == private
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert f"{full_cache} are not used" in caplog.text
    assert said in caplog.text
    assert full_cache.stat() == before
    forget()
    assert build.built().path.parent == private
    assert len(recompiled) == 1  # the second time it was found


@is_root
def test_where_no_folder_is_ones_own_a_new_one_is_made(
    full_cache, recompiled, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    private = tmp_path / "tmp" / "fastad-0"
    private.mkdir()
    os.chown(private, STRANGER, -1)
    assert build.built().path.parent.parent == private.parent
    assert build.built().path.parent != private


def test_without_a_home_a_private_folder_is_used(empty_cache, recompiled, tmp_path, monkeypatch):
    import pwd

    def getpwuid(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    assert build.built().path.parent == tmp_path / "tmp" / f"fastad-{os.geteuid()}"


def test_a_good_library_is_used_from_a_cache_that_cannot_be_written(
    full_cache, recompiled, read_only_cache
):
    folder, as_a_user = read_only_cache
    shutil.copytree(full_cache, folder, dirs_exist_ok=True)
    with as_a_user():
        assert build.built().path == library_of(folder)
    assert not recompiled


def test_a_cache_that_cannot_be_written_and_holds_nothing_is_replaced_by_a_private_one(
    empty_cache, recompiled, read_only_cache
):
    folder, as_a_user = read_only_cache
    with as_a_user():
        assert build.built().path.parent == folder.parent / "tmp" / f"fastad-{os.geteuid()}"
    assert len(recompiled) == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o644)])
def test_a_library_is_readable_by_whom_the_umask_allows_and_written_by_nobody_else(
    empty_cache, recompiled, umask, mode
):
    before = os.umask(umask)
    try:
        build.built()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(f.stat().st_mode) for f in empty_cache.glob("kernels-*-*[so][on]")} == {
        mode
    }
    assert not stat.S_IMODE(empty_cache.stat().st_mode) & 0o022
    forget()
    build.built()
    assert len(recompiled) == 1  # and trusted


def test_a_full_disk_is_a_reason_and_leaves_nothing_behind(empty_cache, recompiled, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    assert "cannot be compiled: [Errno 28] No space left" in str(build._why_unavailable())
    assert [path.suffix for path in empty_cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL, errno.ENOLCK])
def test_a_file_system_without_locks_and_syncing_works(empty_cache, recompiled, monkeypatch, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert build.built().path == library_of(empty_cache)


def test_two_processes_at_once_compile_once(compiled_kernels, tmp_path):
    """The one that comes second waits, and finds what the first has made."""
    fake = tmp_path / "c++"
    fake.write_text(
        f"#!/bin/sh\nfor last; do :; done\n"
        f'case "$*" in *-shared*) echo >> {tmp_path}/calls; sleep 1;; esac\n'
        f'cp {compiled_kernels.path} "$last"\n'
    )
    fake.chmod(0o755)
    environment = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "CXX": str(fake),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    code = (
        "from fastad_kernels.native import build, trial\n"
        "trial.prove = lambda library: ''\n"
        "print(build.library()._name)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | environment, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    names = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(names) == 1
    assert (tmp_path / "calls").read_text() == "\n"


def test_a_lock_that_is_never_released_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.2)
    with store.lock(tmp_path / "lock"), store.lock(tmp_path / "lock"):
        pass
