from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.envs.dark_room import DarkRoom
from fastad.envs.family import EnvSpec, TaskFamily
from fastad.envs.watermaze import Watermaze
from fastad.sources.neural.a2c import A2C
from fastad.sources.neural.dqn import DQN
from fastad.sources.neural.inputs import Codes, Images, Inputs, Vectors, make_inputs
from tests.sources.neural.probes import PictureProbe

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


def made(family: TaskFamily) -> BatchedEnv:
    generator = torch.Generator().manual_seed(0)
    tasks = family.tasks()
    tasks = family.sample(4, "train", generator) if tasks is None else tasks[:4]
    return family.make(tasks, generator)


POOL = Watermaze(height=8, width=10)
FRAMES = Watermaze(height=8, width=10, store="frames")


def test_codes_stand_side_by_side_and_their_names_are_what_is_told() -> None:
    env = made(POOL)
    codes = Codes(POOL)
    vectors = codes(env.pose, torch.zeros(4, dtype=torch.int64))
    targets = POOL.auxiliary_targets(env.pose)
    assert torch.equal(vectors, torch.cat((targets["place"], targets["heading"]), dim=1))
    assert codes.shape == (sum((POOL.auxiliary() or {}).values()),)
    assert codes.fact == "place and heading, as codes"


@pytest.mark.parametrize("family", [POOL, FRAMES])
def test_images_are_what_is_shown_from_minus_one_to_one(family: Watermaze) -> None:
    env = made(family)
    images = Images(family)(env.reset(), torch.zeros(4, dtype=torch.int64))
    frames = POOL.frames(env.pose).float()
    torch.testing.assert_close(images, frames / 127.5 - 1)
    assert images.min() >= -1
    assert images.max() <= 1
    assert Images(family).fact == ""


@pytest.mark.parametrize(
    ("inputs", "observation", "size"),
    [
        (Vectors(spaces.MultiDiscrete([3, 300]), 1, CPU), torch.tensor([[2, 299], [0, 1]]), 2),
        (Vectors(spaces.Discrete(256), 3, CPU), torch.tensor([255, 7]), 2),
        (Vectors(spaces.Box(-2, 2, (2,)), 3, CPU), torch.tensor([[0.1, 2.0], [-1.0, 0.0]]), 3),
        (Codes(POOL), torch.tensor([[0.1, 0.2, 3.0], [-0.5, 0.2, 0.1]]), 3),
        (Images(POOL), torch.tensor([[0.1, 0.2, 3.0], [-0.5, 0.2, 0.1]]), 3),
        (Images(PictureProbe()), torch.tensor([0, 1]), 1),
        (Images(FRAMES), torch.arange(480, dtype=torch.uint8).view(2, 8, 10, 3), 240),
    ],
)
def test_what_is_kept_gives_the_same_inputs(
    inputs: Inputs, observation: torch.Tensor, size: int
) -> None:
    phase = torch.tensor([0, min(2, inputs.num_phases - 1)])
    kept = inputs.keep(observation, phase)
    assert kept.shape == (2, size)
    recalled = inputs.recall(kept.expand(3, 2, size))
    assert torch.equal(recalled, inputs(observation, phase).expand(3, 2, *inputs.shape))


def test_images_whose_channels_come_first_are_turned() -> None:
    class Turned(PictureProbe):
        def show(self, observation: torch.Tensor) -> torch.Tensor:
            return self.picture(observation).movedim(-1, -3)

        def spec(self) -> EnvSpec:
            return replace(super().spec(), shown_space=spaces.Box(0, 255, (3, 8, 9), np.uint8))

    bits, none = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(Images(Turned())(bits, none), Images(PictureProbe())(bits, none))


def test_who_reads_no_images_is_told_codes_or_does_not_fit() -> None:
    assert A2C.fits(made(POOL))
    assert not A2C.fits(made(FRAMES))
    assert DQN.fits(made(FRAMES))
    assert isinstance(make_inputs("a2c", made(POOL), None), Codes)
    assert isinstance(make_inputs("dqn", made(POOL), None, images=True), Codes)
    assert isinstance(make_inputs("dqn", made(POOL), "shown", images=True), Images)
    assert isinstance(make_inputs("dqn", made(FRAMES), None, images=True), Images)
    assert isinstance(make_inputs("dqn", made(DarkRoom()), "shown", images=True), Vectors)


@pytest.mark.parametrize(
    ("family", "sees", "images", "message"),
    [
        (POOL, "pose", True, "unknown sees 'pose'; choose one of: codes, shown"),
        (POOL, "shown", False, "source 'dqn' reads no images, and env 'watermaze' shows Box"),
        (FRAMES, "codes", True, "env 'watermaze', as it is set, has no codes of what it shows"),
        (DarkRoom(), "codes", True, "'dark-room', as it is set, has no codes .* use sees='shown'"),
    ],
)
def test_what_cannot_be_seen_is_refused(
    family: TaskFamily, sees: str, images: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_inputs("dqn", made(family), sees, images=images)  # type: ignore[arg-type]
