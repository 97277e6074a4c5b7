"""Whose a dataset's folder is, and who writes there: with real processes that really die."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastad.base.errors import UserError
from fastad.base.locks import folder_lock
from fastad.cli import main
from fastad.histories import jobs
from fastad.histories.columns import NAMES_OF_SCHEMA_1, SHARD_FILES, columns
from fastad.histories.jobs import collect, prepare
from fastad.histories.reader import HistoryDataset

SETTINGS: dict[str, Any] = {
    "env": "dark-room",
    "env_kwargs": {"size": 5, "episode_length": 6},
    "source": "q-learning",
    "source_kwargs": {"replay_sweeps": 1},
    "num_histories": 30,
    "num_episodes": 30,
    "num_train": 8,
    "num_test": 4,
    "shards": 3,
}
OPTIONS = [
    *("--env-options", "size=5", "episode_length=6"),
    *("--source", "q-learning", "--source-options", "replay_sweeps=1"),
    *("--num-histories", "30", "--num-episodes", "30", "--shards", "3"),
    *("--num-train-tasks", "8", "--num-test-tasks", "4"),
]
# Says how far it is at every commit, and waits there for its reader.
COLLECTION = """
import json, sys
from pathlib import Path
import fastad.histories.jobs
fastad.histories.jobs.STEPS_PER_COMMIT = 100
def progress(done, total):
    print(done, flush=True)
    sys.stdin.readline()
if __name__ == "__main__":
    fastad.histories.jobs.collect(Path(sys.argv[1]), progress=progress, **json.loads(sys.argv[2]))
"""


@contextmanager
def collecting(out: Path, script: Path, **changes: Any) -> Iterator[subprocess.Popen[str]]:
    """A collection that has committed something and does not go on."""
    script.write_text(COLLECTION)
    with subprocess.Popen(
        [sys.executable, str(script), str(out), json.dumps(SETTINGS | changes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        while int(process.stdout.readline()) == 0:
            process.stdin.write("\n")
            process.stdin.flush()
        yield process
        process.kill()


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*.npy"))}


@pytest.mark.parametrize(("option", "workers"), [("--overwrite", 1), ("--resume", 2)])
def test_a_second_collection_is_refused_and_told_who_is_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, workers: int
) -> None:
    out = tmp_path / "data"
    with collecting(out, tmp_path / "first.py", workers=workers) as first:
        files = (out / "dataset.json", out / "tasks.npy", out / "shard-00000" / "action.npy")
        before = [file.stat().st_ino for file in files]
        assert main(["collect", str(out), *OPTIONS, option]) == 2
        complaint = capsys.readouterr().err
        assert f"{out} is being written by another process" in complaint
        assert f"process {first.pid} on {platform.node()}, since 20" in complaint
        assert [file.stat().st_ino for file in files] == before
    collect(tmp_path / "alone", **SETTINGS)
    assert main(["collect", str(out), *OPTIONS, "--resume"]) == 0
    assert contents(out) == contents(tmp_path / "alone")


def test_an_orphaned_worker_ends_before_its_shard_is_deleted(tmp_path: Path) -> None:
    out, long = tmp_path / "data", {"num_episodes": 3000, "workers": 2}
    with collecting(out, tmp_path / "first.py", **long) as first:
        first.kill()
        first.wait()
        # The workers notice a moment later that nobody waits for them.
        collect(out, overwrite=True, **SETTINGS | {"seed": 1})
    collect(tmp_path / "alone", **SETTINGS | {"seed": 1})
    time.sleep(0.5)
    assert contents(out) == contents(tmp_path / "alone")
    assert HistoryDataset(out).complete


@pytest.mark.parametrize("name", ["shard-00007", "dataset.tar.gz", "dataset.json.bak", "meta.json"])
def test_strangers_whose_names_begin_like_ours_are_spared(tmp_path: Path, name: str) -> None:
    collect(tmp_path, **SETTINGS)
    stranger = tmp_path / name
    if name.startswith("shard"):
        stranger.mkdir()
        stranger = stranger / "action.npy"
    stranger.write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"holds more than its dataset"):
        collect(tmp_path, overwrite=True, **SETTINGS)
    assert stranger.read_text() == "precious"
    assert contents(tmp_path) == before


def test_a_stranger_within_a_shard_is_spared(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    (tmp_path / "shard-00001" / "reward.npy.bak").write_text("precious")
    with pytest.raises(UserError, match=r"more than its dataset \(shard-00001/reward.npy.bak\)"):
        collect(tmp_path, overwrite=True, **SETTINGS)
    assert HistoryDataset(tmp_path).complete


def test_the_copy_that_a_run_keeps_is_no_dataset_to_overwrite(tmp_path: Path) -> None:
    collect(tmp_path / "data", **SETTINGS)
    copy = tmp_path / "run" / "dataset"
    copy.mkdir(parents=True)
    for name in ("dataset.json", "tasks.npy"):
        shutil.copy(tmp_path / "data" / name, copy / name)
    with pytest.raises(UserError, match=r"lacks the file .fastad-dataset that `fastad collect`"):
        collect(copy, overwrite=True, **SETTINGS)
    assert len(list(copy.iterdir())) == 2


def test_a_dataset_from_before_there_were_markers_is_overwritten(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    (tmp_path / ".fastad-dataset").unlink()
    values = json.loads((tmp_path / "dataset.json").read_text())
    del values["digest"], values["tasks_digest"]
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    collect(tmp_path, overwrite=True, **SETTINGS | {"seed": 1})
    assert HistoryDataset(tmp_path).info.seed == 1
    assert (tmp_path / ".fastad-dataset").exists()


@pytest.mark.parametrize(
    "left",
    [
        (".fastad-lock",),
        (".fastad-lock", ".fastad-dataset.tmp"),
        (".fastad-lock", ".fastad-dataset"),
        (".fastad-lock", ".fastad-dataset", "tasks.npy.tmp"),
        (".fastad-lock", ".fastad-dataset", "tasks.npy", "dataset.json.tmp"),
    ],
)
def test_a_kill_while_a_dataset_is_begun_or_deleted_leaves_a_free_folder(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    for name in left:
        (tmp_path / name).write_text("torn")
    collect(tmp_path, **SETTINGS)
    assert HistoryDataset(tmp_path).complete


def test_a_dataset_that_lost_its_description_is_named(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset.json: missing; restore the file"):
        collect(tmp_path, overwrite=True, **SETTINGS)


def test_a_refused_folder_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no dataset"):
        collect(tmp_path, **SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_files_of_a_shard_are_its_columns_and_its_meta(tmp_path: Path) -> None:
    with prepare(tmp_path, **SETTINGS) as info:
        assert info.schema_version == 2
        names = {f"{name}.npy" for name in (*columns(info), *NAMES_OF_SCHEMA_1.values())}
        more = {"expert_policy.npy", "final_policy.npy", "bounds.npy", "meta.json"}
        assert names | more == set(SHARD_FILES)


def test_what_was_collected_is_opened_while_nobody_may_replace_it(tmp_path, monkeypatch):
    """Whoever waited for the lock deleted it, in the middle of the summary."""
    locked = []

    class Opened(HistoryDataset):
        def __init__(self, path):
            with pytest.raises(UserError, match="is being written by another process"):
                folder_lock(path, patience=0).__enter__()
            locked.append(path)
            super().__init__(path)

    monkeypatch.setattr(jobs, "HistoryDataset", Opened)
    dataset = collect(
        tmp_path, env="dark-room", source="frontier", num_histories=4, num_episodes=2, num_test=2
    )
    assert locked == [dataset.path]
