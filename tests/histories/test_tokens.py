import re

import numpy as np
import pytest

from fastad.histories.reader import HistoryDataset
from fastad.histories.tokens import format_steps, history_text


def test_a_history_reads_as_one_line_per_step(tmp_path, make_dataset):
    make_dataset(tmp_path)
    assert history_text(HistoryDataset(tmp_path), 4, num_steps=5).splitlines() == [
        "<ep>0</ep><obs>4,0</obs><act>4</act><rew>4000</rew>",
        "<obs>4,1</obs><act>0</act><rew>4001</rew>",
        "<obs>4,2</obs><act>1</act><rew>4002</rew>",
        "<obs>4,3</obs><act>2</act><rew>4003</rew>",
        "<ep>1</ep><obs>4,4</obs><act>3</act><rew>4004</rew>",
    ]


def test_episodes_of_variable_length_are_numbered(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5])
    lines = history_text(HistoryDataset(tmp_path), 2, num_steps=99).splitlines()
    starts = {
        step: line[: line.index("<obs>")] for step, line in enumerate(lines) if "<ep>" in line
    }
    assert starts == {0: "<ep>0</ep>", 3: "<ep>1</ep>", 4: "<ep>2</ep>", 9: "<ep>3</ep>"}
    assert len(lines) == 12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_written_so_that_they_read_back_exactly(dtype):
    rng = np.random.default_rng(0)
    observations = (rng.standard_normal((50, 6)) * 1e8 ** rng.random((50, 6))).astype(dtype)
    rewards = (rng.standard_normal(50) * 1e-9).astype(np.float32)
    steps = {"observation": observations, "action": rng.integers(5, size=50), "reward": rewards}
    text = format_steps(steps, np.arange(50) // 7)
    shown = re.findall("<obs>(.*)</obs>.*<rew>(.*)</rew>", text)
    read = np.array([row.split(",") for row, _ in shown]).astype(dtype)
    np.testing.assert_array_equal(read, observations)
    np.testing.assert_array_equal(np.array([r for _, r in shown]).astype(np.float32), rewards)


def test_images_are_summarised_on_request():
    steps = {
        "observation": np.zeros((1, 4, 6, 3), np.uint8),
        "action": np.array([2]),
        "reward": np.array([1.0], np.float32),
    }
    text = format_steps(steps, np.array([0]), max_values=64)
    assert text == "<ep>0</ep><obs>4x6x3 uint8</obs><act>2</act><rew>1</rew>"
