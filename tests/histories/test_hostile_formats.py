"""Files of other formats that name other files, claim what they do not hold, or hold no numbers."""

import io
import json
import shutil
import warnings

import numpy as np
import pytest
from gymnasium import spaces

import fastad
from fastad.base.errors import UserError
from fastad.histories.formats import hdf5
from fastad.histories.opening import open_histories

h5py = pytest.importorskip("h5py")
minari = pytest.importorskip("minari")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = {"states": (2, 4, 3, 3), "actions": (2, 4), "rewards": (2, 4), "dones": (2, 4)}
DTYPES = {"rewards": np.float16, "dones": np.bool_}


@pytest.fixture
def xland(tmp_path):
    """Two tasks of two histories of four steps."""
    file = tmp_path / "small.hdf5"
    with h5py.File(file, "w") as stream:
        for task in range(2):
            group = stream.create_group(str(task))
            group.attrs.update({"env-id": "Room", "benchmark-id": "room", "ruleset-id": task})
            for name, shape in ROWS.items():
                group[name] = np.ones(shape, DTYPES.get(name, np.uint8))
    shutil.copy(file, tmp_path / "outside.hdf5")
    return file


def replace(stream, name, **told):
    del stream[name]
    stream.create_dataset(name, **told)


def link(kind, *place):
    def change(stream):
        del stream["0/rewards"]
        stream["0/rewards"] = kind(*place)

    return change


def virtual(stream):
    layout = h5py.VirtualLayout(shape=(2, 4), dtype=np.float16)
    layout[...] = h5py.VirtualSource("outside.hdf5", "0/rewards", shape=(2, 4))
    del stream["0/rewards"]
    stream.create_virtual_dataset("0/rewards", layout)


def external(stream):
    place = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    replace(stream, "0/actions", shape=(2, 4), dtype="u1", external=place)


def group_elsewhere(stream):
    del stream["1"]
    stream["1"] = h5py.ExternalLink("outside.hdf5", "/1")


def empty(stream):
    for name, dtype in (("states", "u1"), ("actions", "u1"), ("rewards", "f2"), ("dones", "?")):
        shape = (2**40, *ROWS[name][1:])
        chunks = (1, *ROWS[name][1:])
        replace(stream, f"0/{name}", shape=shape, dtype=dtype, chunks=chunks)


def one_chunk(stream):
    told = {"shape": (2, 4), "chunks": (2**20, 2**10), "maxshape": (None, None), "dtype": "u1"}
    replace(stream, "0/actions", **told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link(h5py.ExternalLink, "outside.hdf5", "/0/rewards"), "0/rewards is a link to what lies"),
        (link(h5py.SoftLink, "/1/rewards"), "0/rewards is a link to what lies elsewhere"),
        (group_elsewhere, "1 is a link to what lies elsewhere"),
        (virtual, "0/rewards lies in another file"),
        (external, "0/actions lies in another file"),
        (empty, "0/states claims .* bytes, of which 0 are stored"),
        (one_chunk, "0/actions has chunks of 1,073,741,824 bytes"),
        (lambda stream: stream["0"].attrs.update({"env-id": 3}), "env-id of group 0 is no text"),
    ],
)
def test_an_hdf5_file_that_holds_no_numbers_of_its_own_is_refused(change, message, xland, tmp_path):
    assert open_histories(xland).num_histories == 4
    with h5py.File(xland, "r+") as stream:
        change(stream)
    with pytest.raises(UserError, match=message):
        open_histories(xland)
    with pytest.raises(UserError, match=message):
        fastad.convert(xland, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_text_that_hdf5_s_library_would_never_have_read_is_refused(xland):
    content = bytearray(xland.read_bytes())
    first = content.index(hdf5.HEAP) + 16
    content[first : first + 16] = bytes(16)  # free space of no size
    xland.write_bytes(content)
    with pytest.raises(UserError, match=r"its text is damaged, at byte \d"):
        open_histories(xland)


def record(path, *, pictures=False, storage="hdf5"):
    """Two episodes of Minari's own making; returns the folder of the data."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    eye = spaces.Box(0, 255, (32, 32, 3), np.uint8) if pictures else spaces.Box(-9, 9, (2,))
    path.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = MinariStorage.new(path, spaces.Dict({"eye": eye}), spaces.Discrete(3), None, storage)
        made.update_episodes(
            EpisodeBuffer(
                id=index, observations={"eye": np.zeros((3, *eye.shape), eye.dtype)},
                actions=np.arange(2), rewards=np.ones(2), terminations=np.zeros(2, bool),
                truncations=np.zeros(2, bool),
            )
            for index in range(2)
        )  # fmt: skip
    return path


@pytest.mark.parametrize("storage", ["hdf5", "arrow", "parquet"])
def test_minari_s_other_storages_and_its_pictures_come_in(storage, tmp_path):
    record(tmp_path / "theirs" / "data", pictures=True, storage=storage)
    data = fastad.HistoryDataset(fastad.convert(tmp_path / "theirs", tmp_path / "new"))
    assert data.lengths.tolist() == [4]
    assert data.read(0, 0, 4)["reward"].tolist() == [1] * 4


def shorter(stream):
    replace(stream, "episode_0/rewards", data=np.ones(1))


def scalar(stream):
    replace(stream, "episode_0/actions", data=1)


def counted(stream):
    replace(stream, "episode_0/terminations", data=np.zeros(2, np.float32))


def circle(stream):
    stream["episode_0/observations/more"] = stream["episode_0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link, "episode_0/more is a link to what lies elsewhere"),
        (circle, "stands under two names"),
        (shorter, "episode 0 has 1 steps and tells total_steps=2"),
        (scalar, r"action has shape \(\) at 2 steps"),
        (counted, r"terminated is float32 of shape \(2,\)"),
    ],
)
def test_a_minari_file_that_is_not_what_it_tells_is_refused(change, message, tmp_path):
    data = record(tmp_path / "theirs" / "data")
    with h5py.File(data / "main_data.hdf5", "r+") as stream:
        if change is link:
            stream["episode_0/more"] = h5py.ExternalLink("outside.hdf5", "/0")
        else:
            change(stream)
    with pytest.raises(UserError, match=message):
        fastad.convert(tmp_path / "theirs", tmp_path / "new")
    assert not list((tmp_path / "new").glob("[!.]*"))


def test_pictures_that_are_no_jpeg_of_their_space_are_refused_before_anything_shows_them(tmp_path):
    from PIL import Image

    data = record(tmp_path / "theirs" / "data", pictures=True)
    for kind, size in (("PNG", (32, 32)), ("JPEG", (64, 32))):
        content = io.BytesIO()
        Image.new("RGB", size).save(content, kind)
        rows = np.tile(np.frombuffer(content.getvalue(), np.uint8), (3, 1))
        with h5py.File(data / "main_data.hdf5", "r+") as stream:
            replace(stream, "episode_0/observations/eye", data=rows)
        with pytest.raises(UserError, match="holds a picture that is no JPEG of 32 x 32 points"):
            fastad.convert(tmp_path / "theirs", tmp_path / "new")


@pytest.mark.parametrize("key", ["", ".", "a/b", "a\0"])
def test_keys_that_are_no_names_in_hdf5_are_refused_and_nothing_is_left(key, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    space = spaces.Dict({"in": spaces.Tuple([spaces.Dict({key: spaces.Discrete(2)})])})
    with fastad.histories.create(
        tmp_path / "data", env="somewhere", num_histories=1, num_steps=2, num_tasks=2, num_test=1,
        observation_space=space, action_space=spaces.Discrete(2), episode_length=2, policies=(),
    ) as writer:  # fmt: skip
        writer.append(
            task=0, observation=[space.sample()] * 2, action=np.zeros(2, int), reward=np.zeros(2),
            terminated=np.zeros(2, bool), truncated=np.array([False, True]),
        )  # fmt: skip
    with pytest.raises(UserError, match="of observations is no name in HDF5"):
        fastad.convert(tmp_path / "data", "minari:odd-v0")
    assert not (tmp_path / "minari").exists()


def test_a_space_that_a_dataset_cannot_keep_leaves_nothing(tmp_path):
    file = record(tmp_path / "theirs" / "data") / "metadata.json"
    metadata = json.loads(file.read_text())
    large = {"type": "Discrete", "n": 2**31, "start": 0}
    told = {"type": "Dict", "subspaces": {"eye": large}}
    file.write_text(json.dumps(metadata | {"observation_space": json.dumps(told)}))
    with pytest.raises(UserError, match=r"2147483648 is no whole number from 1 to 2147483647"):
        fastad.convert(tmp_path / "theirs", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_space_of_text_as_wide_as_memory_is_refused(tmp_path):
    file = record(tmp_path / "theirs" / "data") / "metadata.json"
    metadata = json.loads(file.read_text())
    box = {"type": "Box", "shape": [1], "low": ["a"], "high": ["b"], "dtype": "S2147483647"}
    file.write_text(json.dumps(metadata | {"observation_space": json.dumps(box)}))
    with pytest.raises(UserError, match="observation_space is of numbers that are none of bool"):
        fastad.convert(tmp_path / "theirs", tmp_path / "new")


def test_heaps_that_lie_in_one_another_are_not_walked_again_and_again(tmp_path):
    """As many heaps as fit, each of which leads into one chain of objects."""
    header = hdf5.HEAP + (2**40).to_bytes(8, "little")
    first = hdf5.OBJECT.pack(0, 200_000)
    file = tmp_path / "heaps.h5"
    file.write_bytes((header + first) * 4000 + hdf5.OBJECT.pack(1, 0) * 20_000)
    with pytest.raises(UserError, match="its text is damaged"):
        hdf5.check_heaps(file, "here")


def test_what_has_too_much_room_is_not_converted_and_a_short_part_of_a_table_is(tmp_path):
    data = fastad.collect(
        out=tmp_path / "data", env_options={"size": 3, "episode_length": 4}, num_histories=4,
        num_episodes=2, num_test_tasks=2,
    )  # fmt: skip
    table = data.to_pandas()
    told = json.loads(table.attrs["fastad"])
    told["info"]["num_steps"] = 100_000
    table.attrs["fastad"] = json.dumps(told)
    roomy = fastad.histories.from_pandas(table.groupby("history").head(4), tmp_path / "roomy")
    assert roomy.lengths.tolist() == [4] * 4
    with pytest.raises(UserError, match="has 16 steps and room for 400,000, too much"):
        fastad.convert(roomy.path, tmp_path / "roomy.parquet")
    assert not (tmp_path / "roomy.parquet").exists()


def test_a_table_that_makes_room_for_more_than_it_has_or_has_other_columns_is_refused(tmp_path):
    data = fastad.collect(
        out=tmp_path / "data", env_options={"size": 3, "episode_length": 4}, num_histories=4,
        num_episodes=2, num_test_tasks=2,
    )  # fmt: skip
    table = parquet.read_table(fastad.convert(data.path, tmp_path / "old.parquet"))
    told = json.loads(table.schema.metadata[b"fastad"])
    told["info"]["num_steps"] = 2**30
    wrong = table.replace_schema_metadata({"fastad": json.dumps(told)})
    parquet.write_table(wrong, tmp_path / "new.parquet")
    with pytest.raises(UserError, match="its description makes room for 4,294,967,296;"):
        fastad.convert(tmp_path / "new.parquet", tmp_path / "new")
    parquet.write_table(table.slice(0, len(table) - 1), tmp_path / "new.parquet")
    with pytest.raises(UserError, match="has 31 steps, and was written with 32;"):
        fastad.convert(tmp_path / "new.parquet", tmp_path / "new")
    at = table.schema.get_field_index("learner")
    kind = table.set_column(at, "learner", [[[0.5]] * len(table)])
    parquet.write_table(kind, tmp_path / "new.parquet")
    with pytest.raises(UserError, match="column 'learner' is list"):
        fastad.convert(tmp_path / "new.parquet", tmp_path / "new")
    parquet.write_table(table.append_column("task", table["task"]), tmp_path / "new.parquet")
    with pytest.raises(UserError, match="has twice the column 'task'"):
        fastad.convert(tmp_path / "new.parquet", tmp_path / "new")
    assert not (tmp_path / "new").exists()
