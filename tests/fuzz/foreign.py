"""Samples of the formats of others: Parquet, Minari, HDF5 as XLand-100B has it, Hugging Face."""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py  # noqa: F401  (imported, as Minari and Parquet, before an audit hook watches)
import numpy as np
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401
from gymnasium import spaces

import fastad
from tests.histories.xland_file import write_xland

PARQUET, MINARI, XLAND, MODEL = "tables", "minari", "xland.hdf5", "model"
OUTSIDE = "outside.hdf5"  # which no other file may have read
NESTED = spaces.Dict(
    {"at": spaces.Box(-1.0, 1.0, (2,), np.float32), "seen": spaces.Tuple([spaces.Discrete(3)])}
)
IMAGES = spaces.Dict({"eye": spaces.Box(0, 255, (32, 32, 3), np.uint8)})
STORAGES = ("hdf5", "arrow", "parquet")  # as Minari has them


def make_foreign(folder: Path, rooms: Path, run: Path) -> None:
    """Fill a folder with small samples, made by fastad and, where they are others', by Minari.

    Args:
        folder: Of all samples.
        rooms: A dataset of a dark room.
        run: A run that was trained on it.
    """
    with _environment(MINARI_DATASETS_PATH=str(folder), XDG_STATE_HOME=str(folder / "state")):
        nested = _nested(folder / "nested")
        (folder / PARQUET).mkdir()
        fastad.convert(rooms, folder / PARQUET / "room.parquet")
        fastad.convert(nested, folder / PARQUET / "nested.parquet")
        fastad.convert(nested, f"minari:{MINARI}/own-v0")
        for storage in STORAGES:
            _of_others(folder / MINARI / f"{storage}-v0" / "data", storage)
        _xland(folder)
        fastad.convert(run, folder / MODEL)
    for name in ("nested", "state"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copy(folder / XLAND, folder / OUTSIDE)


def _nested(path: Path) -> Path:
    """A dataset of dicts, real actions, and histories and episodes of all lengths."""
    generator = np.random.default_rng(0)
    with fastad.histories.create(
        path, env="somewhere", num_histories=2, num_steps=4, tasks=[[0.5], [1.5]], num_test=1,
        observation_space=NESTED, action_space=spaces.Box(-1, 1, (2,), np.float32),
        episode_length=3, source="nobody",
    ) as writer:  # fmt: skip
        for task, length in enumerate((4, 3)):
            at = generator.uniform(-1, 1, (length, 2)).astype(np.float32)
            writer.append(
                task=task, last=True, learner=10 + task,
                observation=[{"at": place, "seen": (1,)} for place in at],
                action=at / 2, reward=at[:, 0], terminated=np.arange(length) == 1,
                truncated=np.zeros(length, bool), policy=np.zeros((length, 4), np.float32),
            )  # fmt: skip
    return path


def _of_others(path: Path, storage: str) -> None:
    """Two histories of one episode each, seen as images, recorded without fastad."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    path.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Minari would also like to be told
        made = MinariStorage.new(path, IMAGES, spaces.Discrete(3), None, storage)
        made.update_episodes(
            EpisodeBuffer(
                id=index, observations={"eye": np.full((3, 32, 32, 3), index, np.uint8)},
                actions=np.arange(2), rewards=np.ones(2), terminations=np.arange(2) == 1,
                truncations=np.zeros(2, bool), infos={"policy": np.full((3, 3), 1 / 3)},
            )
            for index in range(2)
        )  # fmt: skip
        made.update_episode_metadata({"history": index, "task": index} for index in range(2))


def _xland(folder: Path) -> None:
    """Two tasks of two histories of four steps each."""
    dataset = fastad.collect(
        out=folder / "symbols", env="tests.histories.xland_file:Room", source="actor-critic",
        env_options={"tasks": {"ruleset_id": [0, 2]}, "episode_length": 2}, num_histories=4,
        num_episodes=2, num_test_tasks=1, num_validation_tasks=0, labels=("final",),
    )  # fmt: skip
    write_xland(folder / XLAND, dataset)
    shutil.rmtree(folder / "symbols")


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


__all__ = ["MINARI", "MODEL", "OUTSIDE", "PARQUET", "XLAND", "make_foreign"]
