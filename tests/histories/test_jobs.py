import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastad.histories.jobs
from fastad.base.errors import UserError
from fastad.histories.jobs import collect, collect_shards, prepare
from fastad.histories.meta import ShardMeta, shard_path
from fastad.histories.reader import HistoryDataset
from fastad.histories.writer import shard_is_complete

SETTINGS: dict[str, Any] = {
    "env": "dark-room",
    "env_kwargs": {"size": 5, "episode_length": 6},
    "source": "q-learning",
    "source_kwargs": {"replay_sweeps": 1},
    "num_histories": 30,
    "num_episodes": 4,
    "num_train": 8,
    "num_test": 4,
    "action_noise": 0.1,
    "shards": 3,
    "seed": 5,
}
# A subprocess that tells how many shards are done, after every ten steps, and waits to be read.
SLOW_COLLECTION = """
import json, sys
from pathlib import Path
import fastad.histories.jobs
fastad.histories.jobs.STEPS_PER_COMMIT = 100
def progress(done, total):
    print(3 * done / total, flush=True)
    sys.stdin.readline()
fastad.histories.jobs.collect(Path(sys.argv[1]), progress=progress, **json.loads(sys.argv[2]))
"""


def contents(path: Path) -> dict[str, bytes]:
    """Every file but the number of attempts that a shard took."""
    files = {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*.npy"))}
    for file in path.rglob("meta.json"):
        meta = ShardMeta.load(file.parent)
        assert meta is not None
        files[str(file.parent.name)] = repr((meta.task_ids, meta.learner_ids)).encode()
    return files


def test_histories_are_dealt_to_train_tasks_in_turn(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    data = HistoryDataset(tmp_path)
    assert data.complete
    assert data.num_histories == 30
    assert data.num_steps == 4 * 6
    assert data.task_ids.tolist() == [i % 8 for i in range(30)]
    assert data.learner_ids == [i // 8 for i in range(30)]
    assert len(data.train_tasks) == 8
    assert len(data.test_tasks) == 4
    assert len(data.validation_tasks) == 2  # half as many as for the test, unless asked for


def test_rewards_are_given_on_the_goal_of_the_history_s_task(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    data = HistoryDataset(tmp_path)
    for history in range(30):
        steps = data.read(history, 0, 24)
        goal = data.tasks[data.task_ids[history]]
        # Within an episode, where a step led is what the next one sees.
        on_goal = (steps["observation"][1:] == goal).all(axis=1)
        within = ~steps["truncated"][:-1]
        assert (on_goal[within] == steps["reward"][:-1][within]).all()


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        collect(tmp_path / name, **SETTINGS | {"seed": seed})
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert first["shard-00001/action.npy"] != other["shard-00001/action.npy"]


def test_shards_have_streams_of_their_own(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS | {"num_train": 1, "num_histories": 30})
    actions = [np.load(shard_path(tmp_path, index) / "action.npy") for index in range(3)]
    assert not np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[1], actions[2])


def test_the_data_do_not_depend_on_how_often_it_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(tmp_path / "a", **SETTINGS)
    monkeypatch.setattr(fastad.histories.jobs, "STEPS_PER_COMMIT", 70)
    collect(tmp_path / "b", **SETTINGS)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_processes_collect_the_same_data_and_report_all_of_it(tmp_path: Path) -> None:
    collect(tmp_path / "one", **SETTINGS)
    reports: list[tuple[int, int]] = []
    collect(
        tmp_path / "two", workers=2, progress=lambda *report: reports.append(report), **SETTINGS
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert reports[0] == (0, 720)
    assert reports[-1] == (720, 720)


def test_progress_counts_committed_steps_of_all_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fastad.histories.jobs, "STEPS_PER_COMMIT", 120
    )  # of ten histories, 12 steps
    reports: list[int] = []
    collect(tmp_path, progress=lambda done, total: reports.append(done), **SETTINGS)
    assert reports == [0, 120, 240, 360, 480, 600, 720]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_learners_that_look_ahead_are_seen_to_go_on(tmp_path: Path, workers: int) -> None:
    reports: list[tuple[int, int]] = []
    settings = SETTINGS | {"labels": ["final"], "shards": 2}
    collect(tmp_path, workers=workers, progress=lambda *report: reports.append(report), **settings)
    assert reports[0] == (0, 2 * 720)
    assert reports[-1] == (2 * 720, 2 * 720)
    if workers == 1:
        done = [done for done, _ in reports]
        assert done == sorted(done)
        assert 0 < done[1] < 720 / 2  # long before a step can be stored
    reports.clear()
    collect(tmp_path, resume=True, progress=lambda *report: reports.append(report), **settings)
    assert set(reports) == {(2 * 720, 2 * 720)}


@pytest.mark.parametrize(
    ("source", "further", "workers"),
    [
        ("q-learning", {"labels": ["expert", "final"], "look_ahead": 2}, 2),
        ("a2c", {"labels": ["final"]}, 1),
        pytest.param("a3c", {}, 1, marks=pytest.mark.slow),
        ("dqn", {}, 1),
    ],
)
def test_a_killed_collection_resumes_to_the_same_bytes(
    tmp_path: Path, source: str, further: dict[str, Any], workers: int
) -> None:
    settings = SETTINGS | {"source": source, "source_kwargs": {}} | further
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    collect(unbroken, **settings)
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_COLLECTION, str(killed), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            # One shard is complete, of the next something is committed.
            if 1.5 < float(line) < 2:
                process.kill()
                break
            process.stdin.write("\n")
            process.stdin.flush()
        process.wait(timeout=30)
    info = HistoryDataset(killed).info
    complete = [shard_is_complete(killed, info, index) for index in range(3)]
    assert complete == [True, False, False]
    done_before = (killed / "shard-00000" / "action.npy").stat().st_mtime_ns
    collect(killed, resume=True, workers=workers, **settings)
    assert (killed / "shard-00000" / "action.npy").stat().st_mtime_ns == done_before
    assert contents(killed) == contents(unbroken)


def test_an_interrupted_collection_keeps_what_is_committed(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 240:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, progress=interrupt, **SETTINGS)
    assert HistoryDataset(tmp_path).num_histories == 10


def test_interrupted_processes_end_with_the_collection(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > 0:
            raise KeyboardInterrupt

    # Minutes of work, of which about a second is done.
    long = SETTINGS | {"num_episodes": 20_000, "num_histories": 300}
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, workers=2, progress=interrupt, **long)
    committed = [ShardMeta.load(shard_path(tmp_path, index)) for index in range(3)]
    assert 0 < sum(meta.committed_steps for meta in committed if meta) < 2 * 120_000


def test_an_existing_dataset_is_neither_continued_nor_replaced_unasked(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    with pytest.raises(UserError, match="continue it with --resume, or replace it with --over"):
        collect(tmp_path, **SETTINGS)


def test_resuming_with_other_settings_names_each_of_them(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    before = contents(tmp_path)
    changed = SETTINGS | {"seed": 6, "source_kwargs": {"replay_sweeps": 2}}
    with pytest.raises(UserError) as caught:
        collect(tmp_path, resume=True, **changed)
    assert "seed: 5 -> 6" in str(caught.value)
    assert "source_options.replay_sweeps: 1 -> 2" in str(caught.value)
    assert contents(tmp_path) == before


def test_a_dataset_from_before_there_were_validation_tasks_is_continued(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS | {"num_validation": 0})
    expected = contents(tmp_path)
    file = tmp_path / "dataset.json"
    older = json.loads(file.read_text())
    del older["num_validation"], older["tasks_digest"], older["digest"]
    file.write_text(json.dumps(older))
    meta = tmp_path / "shard-00002" / "meta.json"
    unfinished = json.loads(meta.read_text()) | {"committed_steps": 6}
    del unfinished["digest"]
    meta.write_text(json.dumps(unfinished))
    collect(tmp_path, resume=True, **SETTINGS)
    assert HistoryDataset(tmp_path).complete
    assert len(HistoryDataset(tmp_path).validation_tasks) == 0
    assert contents(tmp_path) == expected


def test_the_stored_distribution_leaves_the_action_noise_out_or_not(tmp_path: Path) -> None:
    # Uniform over some actions: whole in the one, with a tenth of a fifth on all in the other.
    frontier = SETTINGS | {"source": "frontier", "source_kwargs": {}}
    for labels in ("clean", "executed"):
        collect(tmp_path / labels, noise_labels=labels, **frontier)
        assert HistoryDataset(tmp_path / labels).info.noise_labels == labels
    names = ("action.npy", "policy.npy")
    (actions, clean), (same, executed) = (
        [np.load(tmp_path / labels / "shard-00000" / name) for name in names]
        for labels in ("clean", "executed")
    )
    assert np.array_equal(actions, same)
    assert (clean == 0).any()
    np.testing.assert_allclose(executed, 0.9 * clean + 0.02, atol=1e-3)  # stored in 16 bits


def test_resuming_where_nothing_is_begins(tmp_path: Path) -> None:
    collect(tmp_path / "new", resume=True, **SETTINGS)
    assert HistoryDataset(tmp_path / "new").complete


def test_overwriting_leaves_nothing_of_the_old_dataset(tmp_path: Path) -> None:
    collect(tmp_path / "old", **SETTINGS | {"shards": 5})
    changed = SETTINGS | {"seed": 6, "shards": 2}
    collect(tmp_path / "old", overwrite=True, **changed)
    collect(tmp_path / "new", **changed)
    assert contents(tmp_path / "old") == contents(tmp_path / "new")


def test_overwriting_spares_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no dataset"):
        collect(tmp_path, overwrite=True, **SETTINGS)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_overwriting_spares_a_dataset_that_something_else_lies_in(tmp_path: Path) -> None:
    collect(tmp_path, **SETTINGS)
    (tmp_path / "notes.md").write_text("precious")
    with pytest.raises(UserError, match=r"holds more than its dataset \(notes.md\)"):
        collect(tmp_path, overwrite=True, **SETTINGS)
    assert HistoryDataset(tmp_path).complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_histories": 0}, "num_histories=0"),
        ({"num_episodes": 0}, "num_episodes=0"),
        ({"num_train": 0}, "num_train_tasks=0"),
        ({"shards": 31}, "shards=31 must lie between 1 and num_histories=30"),
        ({"shards": 0}, "shards=0"),
        ({"action_noise": 1.5}, "action_noise=1.5 is no probability"),
        ({"noise_labels": "executd"}, "unknown noise_labels 'executd'; did you mean 'executed'?"),
        ({"env": "dark-rom"}, "did you mean 'dark-room'"),
        ({"source": "ucb1"}, "cannot learn env 'dark-room'; choose one of: q-learning"),
        ({"env_kwargs": {"sise": 5}}, "did you mean 'size'"),
        ({"env_kwargs": {"size": 4}}, "size=4"),
        ({"source_kwargs": {"gama": 0.5}}, "did you mean 'gamma'"),
        ({"source_kwargs": {"gamma": 2.0}}, "gamma=2.0"),
        ({"labels": ["finale"]}, "unknown labels 'finale'; did you mean 'final'?"),
        ({"look_ahead": 2}, "look_ahead=2 is of the label final; add final to the labels"),
        ({"labels": ["final"], "look_ahead": 0}, "look_ahead=0 must be at least 1 and below num_e"),
        ({"labels": ["final"], "look_ahead": 4}, "look_ahead=4 must be at least 1 and below num_e"),
        ({"resume": True, "overwrite": True}, "contradict"),
    ],
)
def test_settings_that_are_not_possible_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        collect(tmp_path / "new", **SETTINGS | change)
    assert message in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        collect(tmp_path / "file", **SETTINGS)


def test_zero_workers_are_refused(tmp_path: Path) -> None:
    with (
        prepare(tmp_path, **SETTINGS) as info,
        pytest.raises(UserError, match="workers=0"),
    ):
        collect_shards(tmp_path, info, workers=0)


def test_the_dataset_says_what_its_source_knows(tmp_path: Path) -> None:
    with prepare(tmp_path, **SETTINGS | {"source": "frontier", "source_kwargs": {}}) as info:
        pass
    assert info.source_knows == "the movement rules, not the reward"


def test_episodes_that_end_early_give_histories_of_equal_steps(tmp_path: Path) -> None:
    changed = {
        "env": "dark-room-hard",
        "env_kwargs": {"size": 5, "episode_length": 10, "terminate_on_goal": True},
    }
    collect(tmp_path, **SETTINGS | changed)
    data = HistoryDataset(tmp_path)
    assert not data.info.fixed_length
    assert data.num_steps == 4 * 10
    assert max(data.num_episodes(history) for history in range(30)) > 4
