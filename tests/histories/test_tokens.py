import numpy as np
import pytest
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.histories.reader import HistoryDataset
from fastad.histories.tokens import format_steps, history_text, parse_text


def test_a_history_reads_as_one_line_per_step(tmp_path, make_dataset):
    make_dataset(tmp_path)
    assert history_text(HistoryDataset(tmp_path), 4, num_steps=5).splitlines() == [
        "<ep>0</ep><obs>4,0</obs><act>4</act><rew>4000</rew>",
        "<obs>4,1</obs><act>0</act><rew>4001</rew>",
        "<obs>4,2</obs><act>1</act><rew>4002</rew>",
        "<obs>4,3</obs><act>2</act><rew>4003</rew>",
        "<ep>1</ep><obs>4,4</obs><act>3</act><rew>4004</rew>",
    ]


def test_text_reads_back_as_the_history(tmp_path, make_dataset):
    info = make_dataset(tmp_path, episode_lengths=[3, 1, 5])
    dataset = HistoryDataset(tmp_path)
    parsed = parse_text(history_text(dataset, 2, num_steps=99), info)
    steps = dataset.read(2, 0, 12)
    for name in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(parsed, name), steps[name])
        assert getattr(parsed, name).dtype == steps[name].dtype
    assert parsed.episodes.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_read_back_exactly(make_info, dtype):
    info = make_info(observation_space=spaces.Box(-np.inf, np.inf, (2, 3), dtype))
    rng = np.random.default_rng(0)
    steps = {
        "observations": (rng.standard_normal((50, 2, 3)) * 1e8 ** rng.random((50, 2, 3))).astype(
            dtype
        ),
        "actions": rng.integers(5, size=50),
        "rewards": (rng.standard_normal(50) * 1e-9).astype(np.float32),
    }
    parsed = parse_text(format_steps(steps, np.arange(50) // 7), info)
    np.testing.assert_array_equal(parsed.observations, steps["observations"])
    np.testing.assert_array_equal(parsed.rewards, steps["rewards"])


def test_a_scalar_observation_is_one_number(make_info):
    info = make_info(observation_space=spaces.Discrete(81))
    parsed = parse_text("<ep>7</ep><obs>80</obs><act>1</act><rew>0.5</rew>", info)
    assert parsed.observations.tolist() == [80]
    assert parsed.rewards.tolist() == [0.5]
    assert parsed.episodes.tolist() == [7]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "<obs>1,1</obs><act>1</act><rew>0</rew>",
        "<ep>0</ep><obs>1</obs><act>1</act><rew>0</rew>",
        "<ep>0</ep><obs>1,x</obs><act>1</act><rew>0</rew>",
        "<ep>0</ep><obs>2x2 uint8</obs><act>1</act><rew>0</rew>",
    ],
)
def test_a_line_that_is_no_step_is_named(make_info, line):
    with pytest.raises(UserError, match="line 1"):
        parse_text(line, make_info())


def test_images_are_summarised_on_request():
    steps = {
        "observations": np.zeros((1, 4, 6, 3), np.uint8),
        "actions": np.array([2]),
        "rewards": np.array([1.0], np.float32),
    }
    text = format_steps(steps, np.array([0]), max_values=64)
    assert text == "<ep>0</ep><obs>4x6x3 uint8</obs><act>2</act><rew>1</rew>"
