import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastad.base import files
from fastad.base.errors import UserError, printable
from fastad.base.files import (
    file_digest,
    is_sealed,
    open_regular,
    read_json,
    replace_durably,
    sync_folder,
    write_json,
)

FIX = "delete it"


def test_a_sealed_file_comes_back_without_its_seal(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"steps": 3, "names": ["é"]}, seal=True)
    assert read_json(file, fix=FIX) == {"steps": 3, "names": ["é"]}
    assert is_sealed(file)
    assert json.loads(file.read_text())["steps"] == 3


def test_the_digest_of_what_a_file_tells_of_is_no_seal(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"files": {"model": {"digest": "0" * 64}}})
    assert not is_sealed(file)


def test_every_flipped_bit_of_a_sealed_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 0.30000000000000004, "y": "é", "z": [1, 2]}, seal=True)
    content = file.read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            values = read_json(file, fix=FIX)
        except UserError:
            continue
        # A flip in the name of the seal makes it a field that nobody knows.
        assert set(values) - {"x", "y", "z"}, f"bit {bit} passed: {values}"


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"a": ' * 100_000])
def test_what_is_no_json_object_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a.json: .*; delete it"):
        read_json(tmp_path / "a.json", fix=FIX)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UserError, match=r"1,099,511,627,776 bytes long, at most 67,108,864"):
        read_json(tmp_path / "a.json", fix=FIX)


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link").symlink_to("real.json")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in (("link", "symbolic link"), ("pipe", "pipe"), ("folder", "folder")):
        with pytest.raises(UserError, match=f"{name}: is a {kind}, not a regular file"):
            open_regular(tmp_path / name, fix=FIX)
    with pytest.raises(UserError, match="is a device"):
        open_regular(Path("/dev/null"), fix=FIX)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent", fix=FIX)


def test_the_digest_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    content = os.urandom(2**22 + 5)
    (tmp_path / "a").write_bytes(content)
    read: list[int] = []
    assert file_digest(tmp_path / "a", fix=FIX, progress=read.append) == files.digest(content)
    assert sum(read) == len(content)


def test_replacing_spares_what_a_link_under_the_temporary_name_points_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.tmp").symlink_to("precious")
    replace_durably(tmp_path / "a", b"new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "precious"]


def test_a_full_disk_keeps_the_old_content_and_names_the_file(tmp_path: Path) -> None:
    # A limit on the size of files fails the write as a full disk does.
    code = (
        "import resource, sys, signal\nfrom pathlib import Path\n"
        "from fastad.base.files import replace_durably\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "replace_durably(Path(sys.argv[1]), bytes(5000))\n"
    )
    (tmp_path / "a").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert f"{tmp_path / 'a'}" in done.stderr.splitlines()[-1]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_folder_that_cannot_be_synced_works_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    monkeypatch.setattr(files, "_said", set())
    for _ in range(3):
        sync_folder(tmp_path)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}: its file system does not flush")


def test_a_disk_that_fails_is_no_file_system_without_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=f"Input/output error: '{tmp_path}'"):
        sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x07", r"a\x1b[31mred\x07"),
        ("two\nlines\tand", "two lines and"),
        ("\u202egpj", r"\u202egpj"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        ("café 日本", "café 日本"),
    ],
)
def test_errors_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(UserError(text)) == shown
