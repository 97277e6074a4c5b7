"""Histories to Minari, Parquet and pandas, and back: what comes back is what was there."""

import json
import shutil
import warnings

import numpy as np
import pytest
from gymnasium import spaces

import fastad
from fastad.base.errors import UserError
from fastad.histories.verify import verify_dataset

minari = pytest.importorskip("minari")
parquet = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

DICT = spaces.Dict(
    {
        "at": spaces.Box(-1.0, 1.0, (2,), np.float32),
        "seen": spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 255, (4, 4, 1), np.uint8)]),
    }
)


def collected(path):
    return fastad.collect(
        out=path, env_options={"size": 3, "episode_length": 4}, num_histories=12, num_episodes=3,
        num_test_tasks=2, shards=2, labels=("expert", "final"),
    )  # fmt: skip


def ragged(path):
    """Dicts, real actions, histories and episodes of all lengths, none as long as there is room."""
    generator, lengths = np.random.default_rng(0), (7, 3, 9)
    with fastad.histories.create(
        path, env="somewhere", num_histories=3, num_steps=11, tasks=[[0.5], [1.5], [2.5]],
        num_test=1, observation_space=DICT, episode_length=4,
        action_space=spaces.Box(-1, 1, (2,), np.float32), source="nobody",
    ) as writer:  # fmt: skip
        for task, length in enumerate(lengths):
            ends = np.arange(1, length + 1) % (2 + task) == 0
            ends[-1] = task == 0
            writer.append(
                task=task, last=True, learner=10 + task,
                observation=[DICT.sample() for _ in range(length)],
                action=generator.uniform(-1, 1, (length, 2)).astype(np.float32),
                reward=generator.normal(size=length).astype(np.float32),
                terminated=ends & (np.arange(length) % 2 == 0),
                truncated=ends & (np.arange(length) % 2 == 1),
                policy=np.tile([0.1, 0.2, -1.0, -1.0], (length, 1)).astype(np.float32),
            )  # fmt: skip
    return fastad.HistoryDataset(path)


@pytest.fixture(scope="module", params=[collected, ragged])
def dataset(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("formats") / "data")


@pytest.fixture
def room(tmp_path):
    return collected(tmp_path / "data")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where Minari keeps its datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def check_same(one, other):
    """Every field of the description, and the digest of every file."""
    assert (one.path / "dataset.json").read_bytes() == (other.path / "dataset.json").read_bytes()
    assert (one.path / "tasks.npy").read_bytes() == (other.path / "tasks.npy").read_bytes()
    metas = [[vars(shard.meta) for shard in each.shards] for each in (one, other)]
    assert metas[0] == metas[1]
    assert all(meta["digests"] for meta in metas[0])
    verdict = verify_dataset(other.path)
    assert (verdict.wrong, verdict.unknown) == ([], [])


def test_parquet_and_back_is_the_same_in_every_byte(dataset, tmp_path):
    file = fastad.convert(dataset.path, tmp_path / "x.parquet")
    assert parquet.ParquetFile(file).metadata.num_rows == dataset.lengths.sum()
    check_same(dataset, fastad.HistoryDataset(fastad.convert(file, tmp_path / "back")))


def test_minari_and_back_is_the_same_in_every_byte(dataset, tmp_path):
    fastad.convert(dataset.path, "minari:ad/room-v0")
    back = fastad.convert("minari:ad/room-v0", tmp_path / "back")
    check_same(dataset, fastad.HistoryDataset(back))


def test_pandas_and_back_is_the_same_in_every_byte(dataset, tmp_path):
    table = dataset.to_pandas()
    assert len(table) == dataset.lengths.sum()
    check_same(dataset, fastad.histories.from_pandas(table, tmp_path / "back"))


def test_minari_s_own_loader_reads_what_was_written(room, root):
    fastad.convert(room.path, "minari:ad/room-v0")
    loaded = minari.load_dataset("ad/room-v0")
    assert [*minari.list_local_datasets()] == ["ad/room-v0"]
    assert (loaded.total_episodes, loaded.total_steps) == (36, 144)
    assert loaded.observation_space == room.info.observation_space
    assert loaded.action_space == room.info.action_space
    episode = loaded[4]  # the second one of the second history
    steps = room.read(1, 4, 8)
    assert (episode.observations[:-1] == steps["observation"]).all()
    assert (episode.observations[-1] == steps["observation"][-1]).all()
    assert (episode.rewards == steps["reward"]).all()
    assert (episode.infos["policy"][:-1] == steps["policy"]).all()
    (told,) = loaded.storage.get_episode_metadata([4])
    assert (told["history"], told["episode"], told["task"]) == (1, 1, room.task_ids[1])
    env = loaded.recover_environment()
    assert env.observation_space == loaded.observation_space
    assert env.unwrapped.spec.kwargs["size"] == 3


def test_a_table_has_a_row_per_step_with_what_happened(room):
    table = room.to_pandas([1, 2])
    assert [*table.columns[:7]] == [
        "history", "task", "learner", "episode", "step", "observation.0", "observation.1",
    ]  # fmt: skip
    assert table["history"].unique().tolist() == [1, 2]
    first = table[table["history"] == 1]
    assert first["episode"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert first["step"].tolist() == [0, 1, 2, 3] * 3
    assert (first[["observation.0", "observation.1"]] == room.read(1, 0, 12)["observation"]).all(
        axis=None
    )


def test_a_table_of_some_histories_becomes_a_dataset_of_these(room, tmp_path):
    some = fastad.histories.from_pandas(room.to_pandas([3, 5]), tmp_path / "some")
    assert some.num_histories == 2
    assert some.task_ids.tolist() == room.task_ids[[3, 5]].tolist()
    assert (some.read(1, 0, 12)["action"] == room.read(5, 0, 12)["action"]).all()


def test_rows_that_are_missing_or_out_of_order_are_refused(room, tmp_path):
    table = room.to_pandas()
    for wrong in (table.drop(index=3), table[::-1]):
        with pytest.raises(UserError, match=r"history (0|11) are missing or out of order"):
            fastad.histories.from_pandas(wrong, tmp_path / "new")
    with pytest.raises(UserError, match="lacks the column 'reward'"):
        fastad.histories.from_pandas(table.drop(columns="reward"), tmp_path / "new")
    nameless = table.copy()
    nameless.attrs = {}
    with pytest.raises(UserError, match=r"is gone; name the dataset with like="):
        fastad.histories.from_pandas(nameless, tmp_path / "new")
    check_same(room, fastad.histories.from_pandas(nameless, tmp_path / "like", like=room))
    assert not (tmp_path / "new" / "dataset.json").exists()


def test_what_a_file_from_elsewhere_names_gains_no_trust_by_being_converted(room, tmp_path):
    table = room.to_pandas()
    described = json.loads(table.attrs["fastad"])
    described["info"] |= {"env": "os:abort", "env_kwargs": {}}
    table.attrs["fastad"] = json.dumps(described)
    copied = fastad.histories.from_pandas(table, tmp_path / "evil")
    with pytest.raises(UserError, match="os:abort"):
        copied.info.family(copied.path)


def record(root, name, episodes, *, metadata=None, spaces_of=None, infos=None):
    """A Minari dataset of somebody else."""
    from minari.data_collector import EpisodeBuffer

    observations, actions = spaces_of or (spaces.Box(-9, 9, (2,), np.float64), spaces.Discrete(3))
    buffers = [
        EpisodeBuffer(
            observations=np.zeros((length + 1, 2)), actions=np.arange(length) % 3,
            rewards=np.full(length, float(index)), terminations=np.zeros(length, bool),
            truncations=np.zeros(length, bool), infos=infos(length) if infos else None,
        )
        for index, length in enumerate(episodes)
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Minari would also like to be told
        made = minari.create_dataset_from_buffers(
            name, buffers, observation_space=observations, action_space=actions
        )
    if metadata:
        made.storage.update_episode_metadata(metadata)
    return name


def test_episodes_of_others_are_one_history_in_order_and_train_by_sampled_targets(root, tmp_path):
    name = record(root, "theirs-v0", [3, 5, 2])
    data = fastad.HistoryDataset(fastad.convert(name, tmp_path / "theirs"))
    assert (data.num_histories, data.num_steps) == (1, 10)
    assert data.info.policies == []
    assert data.episode_bounds(0).tolist() == [0, 3, 8, 10]
    assert data.read(0, 0, 10)["truncated"].tolist() == [i in (2, 7) for i in range(10)]
    assert data.read(0, 0, 10)["reward"].tolist() == [0] * 3 + [1] * 5 + [2] * 2
    run = fastad.train(
        data=data, out=tmp_path / "run", target="sampled", window=8, context=8, width=16,
        updates=1, batch_size=2,
    )  # fmt: skip
    assert run.updates == 1
    with pytest.raises(UserError, match="target=policy needs the column policy"):
        fastad.train(data=data, out=tmp_path / "no", window=8)


def test_histories_and_tasks_of_others_follow_from_metadata(root, tmp_path):
    told = [{"who": who, "goal": goal} for who, goal in ((4, 0.5), (7, 2.5), (4, 0.5))]
    name = record(root, "theirs-v1", [3, 5, 2], metadata=told)
    path = fastad.convert(
        name, tmp_path / "new", history_key="who", task_key="goal", num_test_tasks=1
    )
    data = fastad.HistoryDataset(path)
    assert data.tasks.tolist() == [[0.5], [2.5]]
    assert (data.info.num_train, data.info.num_test) == (1, 1)
    assert data.lengths.tolist() == [5, 5]
    assert data.task_ids.tolist() == [0, 1]
    assert data.read(0, 0, 5)["reward"].tolist() == [0, 0, 0, 2, 2]
    with pytest.raises(UserError, match=r"3 of 3 episodes have no 'whom' in their metadata"):
        fastad.convert(name, tmp_path / "other", history_key="whom")


def test_policies_of_others_come_along_where_they_are_what_fastad_stores(root, tmp_path):
    def infos(length):
        return {"policy": np.full((length + 1, 3), 1 / 3), "score": np.zeros(length + 1)}

    data = fastad.HistoryDataset(
        fastad.convert(record(root, "theirs-v2", [3, 2], infos=infos), tmp_path / "new")
    )
    assert data.info.policies == ["policy"]
    assert data.read(0, 0, 5)["policy"] == pytest.approx(np.full((5, 3), 1 / 3), abs=1e-3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("minari:none-v0", "is not among Minari's local datasets"),
        ("minari:none", "is no ID of Minari"),
        ("nowhere", "does not exist; name a dataset"),
        ("empty", "is a folder of no known format"),
        ("data.txt", "is a file of no known format"),
        ("cut.parquet", "is no Parquet file, or cut short"),
        ("theirs.parquet", "without the description that fastad writes"),
    ],
)
def test_sources_that_are_none_are_refused_and_nothing_is_left(source, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.txt").write_text("x")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then no more")
    pandas.DataFrame({"x": [1]}).to_parquet(tmp_path / "theirs.parquet")
    where = source if source.startswith("minari:") else tmp_path / source
    with pytest.raises(UserError, match=message):
        fastad.convert(where, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_minari_data_without_what_is_needed_are_refused_by_name(root, tmp_path):
    name = record(root, "text-v0", [2], spaces_of=(spaces.MultiBinary(2), spaces.Discrete(3)))
    with pytest.raises(UserError, match=r"cannot be converted, observation_space: .*MultiBinary"):
        fastad.convert(name, tmp_path / "new")
    # Minari would make the environment that such a file names: no code runs here.
    file = root / "text-v0" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["observation_space"]
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="lacks observation_space"):
        fastad.convert(name, tmp_path / "new")
    data = root / "text-v0" / "data" / "main_data.hdf5"
    file.write_text(json.dumps(metadata | {"observation_space": metadata["action_space"]}))
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match="cut short or damaged"):
        fastad.convert(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_destination_that_is_there_is_replaced_only_if_it_is_fastad_s(room, root, tmp_path):
    file = tmp_path / "x.parquet"
    for destination in (file, "minari:room-v0"):
        fastad.convert(room.path, destination)
        with pytest.raises(UserError, match="exists; replace it with --overwrite"):
            fastad.convert(room.path, destination)
        fastad.convert(room.path, destination, overwrite=True)
    pandas.DataFrame({"x": [1]}).to_parquet(file)
    with pytest.raises(UserError, match=r"is none of fastad's files"):
        fastad.convert(room.path, file, overwrite=True)
    (root / "room-v0" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds more than its minari \(notes.txt\)"):
        fastad.convert(room.path, "minari:room-v0", overwrite=True)
    record(root, "theirs-v0", [3])
    with pytest.raises(UserError, match=r"lacks the file .fastad-minari"):
        fastad.convert(room.path, "minari:theirs-v0", overwrite=True)


@pytest.mark.parametrize("destination", ["new.parquet", "minari:new-v0", "new"])
def test_an_interrupt_leaves_nothing_half_written(destination, room, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = fastad.convert(room.path, "old.parquet") if destination == "new" else room.path
    before = sorted(tmp_path.rglob("*"))

    def stop(done, total):
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastad.convert(source, destination, progress=stop)
    left = [path for path in tmp_path.rglob("*") if path not in before]
    assert [path for path in left if path.is_file() and path.name != ".fastad-lock"] == []
    fastad.convert(source, destination)


def test_a_dataset_that_is_not_complete_or_ways_that_are_none_are_refused(room, tmp_path):
    with pytest.raises(UserError, match="does not say what the dataset shall become"):
        fastad.convert(room.path, tmp_path / "new")
    with pytest.raises(UserError, match=r"ends with .csv, which fastad does not write"):
        fastad.convert(room.path, tmp_path / "new.csv")
    with pytest.raises(UserError, match="--history-key, --task-key, --env"):
        fastad.convert(room.path, tmp_path / "new.parquet", env="dark-room")
    shutil.rmtree(room.path / "shard-00001")
    with pytest.raises(UserError, match=r"is not complete \(shard-00001: 0 of 12 steps\)"):
        fastad.convert(room.path, tmp_path / "new.parquet")
