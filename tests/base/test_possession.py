import shutil
from pathlib import Path

import pytest

from fastad.base.errors import UserError
from fastad.base.locks import folder_lock
from fastad.base.possession import delete_own, is_marked, mark, marker_name, strangers

OURS = {"a.npy", "last.json", ".fastad-dataset", "shard-0/", "shard-0/b.npy"}


def fill(folder: Path) -> None:
    (folder / "shard-0").mkdir(parents=True)
    for name in ("a.npy", "last.json", "shard-0/b.npy", "shard-0/.fastad-lock"):
        (folder / name).write_text("ours")
    mark(folder, "dataset")


def test_only_what_fastad_wrote_is_a_marker(tmp_path: Path) -> None:
    assert not is_marked(tmp_path, "dataset")
    mark(tmp_path, "dataset")
    assert is_marked(tmp_path, "dataset")
    assert not is_marked(tmp_path, "run")
    content = (tmp_path / ".fastad-dataset").read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / marker_name("dataset")).write_bytes(flipped)
        assert not is_marked(tmp_path, "dataset")


@pytest.mark.parametrize(
    "name",
    ["a.npy.bak", "a.np", "shard-0/b.npy~", "shard-0/notes/c", "shard-00/b.npy", "shard-1/b.npy"],
)
def test_a_stranger_is_found_and_nothing_is_deleted(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    (found,) = strangers(tmp_path, OURS.__contains__)
    assert name.startswith(found)
    with pytest.raises(UserError, match=r"holds more than its dataset"):
        delete_own(tmp_path, "dataset", OURS.__contains__)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_place_of_a_folder_of_ours_is_a_stranger(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-0").symlink_to(tmp_path / "elsewhere" / "shard-0")
    with pytest.raises(UserError, match=r"more than its dataset \(shard-0\)"):
        delete_own(tmp_path / "data", "dataset", OURS.__contains__)
    assert (tmp_path / "elsewhere" / "shard-0" / "b.npy").read_text() == "ours"


def test_everything_of_ours_is_deleted_but_the_lock(tmp_path: Path) -> None:
    fill(tmp_path)
    with folder_lock(tmp_path):
        delete_own(tmp_path, "dataset", OURS.__contains__)
    assert [file.name for file in tmp_path.iterdir()] == [".fastad-lock"]


def test_the_last_files_go_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    deleted: list[str] = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        deleted.append(path.name)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    delete_own(tmp_path, "dataset", OURS.__contains__, last=("last.json", ".fastad-dataset"))
    assert deleted[-2:] == ["last.json", ".fastad-dataset"]
    assert list(tmp_path.iterdir()) == []


def test_what_its_writer_deletes_meanwhile_is_no_stranger(tmp_path: Path) -> None:
    fill(tmp_path)

    def is_ours(path: str) -> bool:
        if path == "shard-0/":
            shutil.rmtree(tmp_path / path)
        return path in OURS

    assert strangers(tmp_path, is_ours) == []
