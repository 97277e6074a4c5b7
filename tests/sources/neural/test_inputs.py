import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.sources.neural.inputs import Vectors

CPU = torch.device("cpu")


def test_numbers_are_one_hot_block_by_block() -> None:
    inputs = Vectors(spaces.MultiDiscrete([3, 2]), 1, CPU)
    vectors = inputs(torch.tensor([[2, 0], [0, 1]]), torch.zeros(2, dtype=torch.int64))
    assert vectors.tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]
    assert inputs.typical_norm == pytest.approx(2**0.5)
    single = Vectors(spaces.Discrete(3), 1, CPU)
    assert single(torch.tensor([1]), torch.zeros(1, dtype=torch.int64)).tolist() == [[0, 1, 0]]


def test_a_phase_is_one_block_more() -> None:
    inputs = Vectors(spaces.Discrete(2), 3, CPU)
    assert inputs(torch.tensor([1, 0]), torch.tensor([0, 2])).tolist() == [
        [0, 1, 1, 0, 0],
        [1, 0, 0, 0, 1],
    ]


def test_bounded_vectors_are_scaled_and_others_taken_as_they_are() -> None:
    space = spaces.Box(np.float32([0, -np.inf, 5]), np.float32([4, np.inf, 5]))
    inputs = Vectors(space, 2, CPU)
    vectors = inputs(torch.tensor([[3.0, 7.0, 5.0]]), torch.tensor([1]))
    assert vectors.tolist() == [[0.5, 7.0, 5.0, 0.0, 1.0]]
    assert inputs.width == 5


@pytest.mark.parametrize(
    ("space", "suits"),
    [
        (spaces.Discrete(3), True),
        (spaces.Discrete(3, start=1), False),
        (spaces.MultiDiscrete([2, 2]), True),
        (spaces.Box(-1, 1, (4,)), True),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), False),
    ],
)
def test_spaces_that_can_be_turned_into_vectors(space: spaces.Space, suits: bool) -> None:
    assert Vectors.suit(space) == suits
