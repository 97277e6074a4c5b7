"""Files in XLand-100B's layout are read where they lie, learned from, and rolled out."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastad
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.histories.formats.xland import XLandHistories
from fastad.histories.opening import open_histories

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module", autouse=True)
def module():
    """`xland_file`, as an environment's module is named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        import xland_file

        yield xland_file
    sys.modules.pop("xland_file", None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, module):
    """24 histories of 12 tasks, as fastad has them."""
    return fastad.collect(
        out=tmp_path_factory.mktemp("xland") / "data", env="xland_file:Room",
        env_options={"tasks": {"ruleset_id": [0, 24]}, "episode_length": 6}, source="actor-critic",
        num_histories=24, num_episodes=8, num_test_tasks=13, num_validation_tasks=0,
        labels=("final",),
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(dataset, module):
    return module.write_xland(dataset.path.with_name("small.hdf5"), dataset)


@pytest.fixture
def copy(file, tmp_path):
    """A file of one's own to break, opened for writing within a block."""
    broken = tmp_path / "broken.hdf5"
    broken.write_bytes(file.read_bytes())
    return broken


def test_the_file_says_what_it_holds(file, dataset):
    found = open_histories(file)
    info = found.info
    assert (found.num_histories, found.num_steps, info.episode_length) == (24, 48, 6)
    assert (info.num_train, info.num_test, info.policies) == (10, 2, ["final_policy"])
    assert (info.observation_space.nvec == np.tile([13, 12], (5, 5, 1))).all()
    assert info.env == "SymbolRoom-5x5"
    assert sorted(found.tasks[:, 0]) == sorted(dataset.tasks[np.unique(dataset.task_ids), 0])
    assert found.complete
    assert len(found.train_histories) == 20


def test_every_step_is_the_one_that_was_written(file, dataset, module):
    found = open_histories(file)
    per_task = np.unique(dataset.task_ids)
    for theirs in range(24):
        ours = np.flatnonzero(dataset.task_ids == per_task[theirs // 2])[theirs % 2]
        steps, was = found.read(theirs, 0, 48), dataset.read(int(ours), 0, 48)
        assert (steps["observation"] == module.symbols(was["observation"].astype(int))).all()
        assert (steps["action"] == was["action"]).all()
        assert (steps["reward"] == was["reward"]).all()
        assert (steps["terminated"] == (was["terminated"] | was["truncated"])).all()
        assert (steps["final_policy"].argmax(-1) == was["final_policy"].argmax(-1)).all()
        assert (steps["final_policy"].sum(-1) == 1).all()
        assert (found.episode_bounds(theirs) == np.arange(0, 49, 6)).all()


def test_gathering_gives_what_reading_does(file):
    found = open_histories(file)
    histories = np.array([3, 17, 3, 0])
    steps = np.array([[0, 1, 2], [40, 41, 47], [10, 20, 30], [5, 6, 7]])
    into = {
        "observation": np.empty((4, 3, 5, 5, 2), np.int64),
        "reward": np.empty((4, 3), np.float32),
        "truncated": np.empty((4, 3), np.bool_),
    }
    found.gather(histories, steps, into)
    for row, (history, which) in enumerate(zip(histories, steps, strict=True)):
        whole = found.read(int(history), 0, 48)
        assert all((into[name][row] == whole[name][which]).all() for name in into)
    with pytest.raises(IndexError):
        found.gather(np.array([24]), steps[:1], into)
    with pytest.raises(IndexError):
        found.gather(histories, steps + 1, into)


def test_it_trains_and_rolls_out_without_conversion(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "--window 24 --context 24 --width 16 --num-layers 1 --batch-size 4"
    line = f"train {file} --target final {small} --subsample cut"
    assert main(f"{line} --updates 3".split()) == 0
    assert main(f"{line} --updates 3 --extend 2".split()) == 0
    run = fastad.Run("runs/small")
    assert run.updates == 5
    assert run.dataset_info.num_test == 2
    assert main(f"{line} --updates 5 --resume".split()) == 0
    acted = "rollout runs/small --env xland_file:SymbolRoom --episodes 2 --rollouts-per-task 2"
    assert main(acted.split()) == 0
    (kept,) = Path("runs/small/rollouts").glob("*.json")
    assert fastad.Result.load(kept).returns.shape == (4, 2)
    capsys.readouterr()
    assert main(["rollout", "runs/small"]) == 2
    assert "roll out with --env gym:ID" in capsys.readouterr().err
    assert main(["rollout", "runs/small", "--env", "xland_file:Room"]) == 2
    assert "has the observation_space MultiDiscrete([5 5])" in capsys.readouterr().err


def test_it_becomes_a_dataset_of_fastad(file, tmp_path):
    found, copied = (
        open_histories(file),
        fastad.HistoryDataset(fastad.convert(file, tmp_path / "copied")),
    )
    assert copied.num_histories == 24
    assert (copied.tasks == found.tasks).all()
    assert (copied.task_ids == found.task_ids).all()
    one, other = found.read(7, 0, 48), copied.read(7, 0, 48)
    assert all((one[name] == other[name]).all() for name in one)


def test_few_tasks_are_open_at_once_however_many_there_are(file, monkeypatch):
    monkeypatch.setattr("fastad.histories.formats.xland.OPEN_GROUPS", 2)
    monkeypatch.setattr("fastad.histories.formats.xland.KEPT_BOUNDS", 3)
    found = XLandHistories(file)
    for history in range(24):
        found.episode_bounds(history)
    assert len(found._groups) == 2
    assert len(found._bounds) == 3


def test_an_environment_that_nobody_typed_is_not_made(file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("fastad.base.trust._asked", set())
    run = fastad.train(
        data=file, out=tmp_path / "run", target="sampled", window=12, context=12, width=16,
        updates=1, batch_size=2,
    )  # fmt: skip
    with pytest.raises(UserError, match="xland_file:SymbolRoom"):
        fastad.rollout(run, fastad.RolloutConfig(env="xland_file:SymbolRoom"))
    assert fastad.rollout(run, env="xland_file:SymbolRoom", episodes=1).num_tasks == 2


def test_a_file_that_is_cut_short_or_none_is_refused(copy, tmp_path):
    copy.write_bytes(copy.read_bytes()[:2000])
    for path in (copy, tmp_path / "none.hdf5"):
        with pytest.raises(UserError, match=r"is no HDF5 file, or cut short|does not exist"):
            open_histories(path)
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(UserError, match="is no HDF5 file, or cut short"):
        open_histories(tmp_path / "text.h5")


def break_attribute(group):
    del group["3"].attrs["ruleset-id"]


def break_name(group):
    group.move("3", "episode_3")


def break_column(group):
    del group["0/rewards"]


def break_values(group):
    group["0/actions"][0, 0] = 6


def break_symbols(group):
    group["0/states"][0, 0, 0, 0] = 156


def break_repeated(group):
    group["3"].attrs["ruleset-id"] = group["4"].attrs["ruleset-id"]


def break_mixed(group):
    group["3"].attrs["env-id"] = "another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_attribute, "group 3 lacks ruleset-id"),
        (break_name, r"holds .*, and a file of XLand-100B the groups 0, 1, 2"),
        (break_column, "0/rewards is missing or of another kind"),
        (break_values, "0/actions holds values that are no actions, 0 to 5"),
        (break_symbols, "0/states holds values that are no tiles"),
        (break_repeated, "1 groups repeat the ruleset of another"),
        (break_mixed, "one file is of one environment"),
    ],
)
def test_another_layout_is_refused_by_what_is_wrong(change, message, copy):
    with h5py.File(copy, "r+") as group:
        change(group)
    with pytest.raises(UserError, match=message):
        open_histories(copy)


def test_a_damaged_chunk_is_named_when_it_is_read(copy):
    with h5py.File(copy, "r") as group:
        chunk = group["0/dones"].id.get_chunk_info(0)
    content = bytearray(copy.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    copy.write_bytes(content)
    with pytest.raises(UserError, match="is damaged in 0/dones"):
        open_histories(copy)
