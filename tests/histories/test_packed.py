"""Histories of packed observations: stored as bytes, checked and shown part by part."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.commands.inspect import InspectConfig, run_inspect
from fastad.histories.block import BlockChecker
from fastad.histories.columns import columns
from fastad.histories.folder import create_dataset
from fastad.histories.reader import HistoryDataset
from fastad.histories.tokens import history_text
from fastad.histories.writer import ShardWriter
from fastad.spaces import pack

SPACE = spaces.Dict(
    {
        "direction": spaces.Discrete(4),
        "image": spaces.Box(0, 10, (7, 7, 3), np.uint8),
        "speed": spaces.Box(-2, 2, (1,), np.float32),
    }
)
NUM_BYTES = 1 + 147 + 4


def packed(direction=3, pixel=10, speed=-1.5):
    return pack(
        SPACE,
        {
            "direction": direction,
            "image": np.full((7, 7, 3), pixel, np.uint8),
            "speed": np.array([speed], np.float32),
        },
    )


@pytest.fixture
def info(make_info):
    return make_info(observation_space=SPACE, num_histories=1, num_shards=1)


@pytest.fixture
def block(info, make_block):
    """All of the one history."""
    made = make_block(info, range(1), range(12), None)
    return made._replace(observation=torch.from_numpy(packed()).repeat(1, 12, 1))


@pytest.fixture
def path(tmp_path, info, block):
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    with ShardWriter(tmp_path, info, 0, task_ids=[0], learner_ids=[0]) as writer:
        writer.append(block)
    return tmp_path


def test_a_packed_observation_is_one_column_of_bytes(info, path):
    assert columns(info)["observation"] == (np.dtype(np.uint8), (NUM_BYTES,))
    dataset = HistoryDataset(path)
    assert dataset.info == info
    assert (dataset.read(0, 0, 12)["observation"] == packed()).all()


def test_a_part_outside_its_space_is_refused_by_its_key(info, block):
    for wrong, words in (
        (packed(direction=4), r"\[3, 4\], outside \[0, 3\]; key 'direction' of observation_space"),
        (packed(pixel=11), "key 'image' of observation_space"),
        (packed(speed=2.5), "key 'speed' of observation_space"),
        (packed(speed=np.nan), "not finite; key 'speed' of observation_space"),
    ):
        observation = block.observation.clone()
        observation[0, 5] = torch.from_numpy(wrong)
        with pytest.raises(UserError, match=words):
            BlockChecker(info).arrays(block._replace(observation=observation), 1)


def test_a_damaged_part_on_the_disk_is_found_by_its_key(path):
    (file,) = path.rglob("observation.npy")
    content = bytearray(file.read_bytes())
    first = len(content) - 12 * NUM_BYTES
    content[first + 5 * NUM_BYTES] = 9  # the direction of step 5
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"observation\[0, 5\] is 9; key 'direction'"):
        HistoryDataset(path)


def test_packed_observations_are_shown_part_by_part(path):
    line = history_text(HistoryDataset(path), 0, num_steps=1, max_values=64)
    assert line == (
        "<ep>0</ep><obs>direction=3 image=7x7x3 uint8 speed=-1.5</obs><act>0</act><rew>0</rew>"
    )


def test_inspect_names_the_parts_of_a_space(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run_inspect(InspectConfig(path=path, tokens=True, steps=1))
    out = capsys.readouterr().out
    assert "Dict(direction: Discrete(4), image: Box, 7x7x3 uint8, speed: Box, 1 float32)" in out
    assert "<obs>direction=3 image=7x7x3 uint8 speed=-1.5</obs>" in out
