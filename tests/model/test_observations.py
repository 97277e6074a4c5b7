"""From observations to features, by the space that they are of."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.model.observations import (
    CoordinateEncoder,
    ImageEncoder,
    PackedEncoder,
    Scale,
    ShownEncoder,
    VectorEncoder,
    observation_encoder,
)
from fastad.spaces import pack

IMAGE = spaces.Box(0, 255, (30, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.Discrete(4, start=2), CoordinateEncoder),
        (spaces.MultiDiscrete([3, 4]), CoordinateEncoder),
        (spaces.MultiDiscrete([[3, 4], [5, 6]]), CoordinateEncoder),
        (spaces.Box(-1, 1, (6,)), VectorEncoder),
        (spaces.Box(-1, 1, (2, 3)), VectorEncoder),
        (spaces.Box(-np.inf, np.inf, (6,)), VectorEncoder),
        (spaces.Box(0, 255, (24, 32, 3), np.uint8), VectorEncoder),
        (spaces.Box(0, 255, (7,), np.uint8), VectorEncoder),
        (spaces.Box(0, 255, (25, 32, 3), np.uint8), ImageEncoder),
        (spaces.Box(0, 255, (3, 24, 33), np.uint8), ImageEncoder),
    ],
)
def test_each_space_has_an_encoder(space, kind):
    encoder = observation_encoder(space, 8)
    assert type(encoder) is kind
    rows = torch.as_tensor(np.stack([space.sample() for _ in range(6)]))
    assert encoder(rows.view(2, 3, *space.shape)).shape == (2, 3, 8)


def test_a_scale_brings_each_number_to_mean_0_and_deviation_1():
    scale, numbers = Scale((2,)), torch.tensor([[1.0, 100.0], [3.0, 300.0]])
    scale.fit(numbers)
    assert scale(numbers).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    # Nine standard deviations away, and more than the ten that count.
    assert scale(torch.tensor([[11.0, 1e9]])).tolist() == [[9.0, 10.0]]


def test_what_never_varied_keeps_its_size():
    scale = Scale((2,))
    scale.fit(torch.tensor([[7.0, 0.0], [7.0, 2.0]]))
    assert scale(torch.tensor([[8.0, 2.0]])).tolist() == [[1.0, 1.0]]


def test_channels_may_come_first_or_last():
    torch.manual_seed(0)
    last, first = ImageEncoder((30, 40, 3), 8), ImageEncoder((3, 30, 40), 8)
    first.load_state_dict(last.state_dict())
    image = torch.randint(256, (2, 3, 30, 40, 3), dtype=torch.uint8)
    last.fit(image.flatten(0, 1))
    first.fit(image.flatten(0, 1).movedim(-1, -3))
    torch.testing.assert_close(first(image.movedim(-1, -3)), last(image))


def test_an_image_is_scaled_by_channel():
    encoder = observation_encoder(IMAGE, 8)
    images = torch.zeros(2, 30, 40, 3, dtype=torch.uint8)
    images[0, ..., 1], images[1, ..., 1], images[..., 2] = 10, 30, 5
    encoder.fit(images)
    assert encoder.scale.mean.flatten().tolist() == [0.0, 20.0, 5.0]
    assert encoder.scale.std.flatten().tolist() == [1.0, 10.0, 1.0]


def test_features_of_a_picture_depend_on_its_pixels_alone():
    encoder = observation_encoder(IMAGE, 8)
    images = torch.randint(256, (1, 4, 30, 40, 3), dtype=torch.uint8)
    encoder.fit(images[0])
    together = encoder(images)
    alone = torch.cat([encoder(images[:, t : t + 1]) for t in range(4)], dim=1)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    images[0, 1, 5, 5] ^= 128
    changed = (encoder(images) != together).any(dim=-1)[0]
    assert changed.tolist() == [False, True, False, False]


def test_what_is_shown_is_encoded_in_place_of_what_is_stored():
    inner = VectorEncoder((3,), 8)
    encoder = ShownEncoder(lambda pose: torch.cat((pose, pose[..., :1] + 1), dim=-1), inner)
    poses = torch.randn(2, 5, 2)
    encoder.fit(poses.flatten(0, 1))
    shown = torch.cat((poses, poses[..., :1] + 1), dim=-1)
    torch.testing.assert_close(inner.scale.mean, shown.mean(dim=(0, 1)))
    assert torch.equal(encoder(poses), inner(shown))


def test_parts_of_a_dict_are_encoded_each_by_its_space_and_summed():
    space = spaces.Dict(
        {"image": IMAGE, "at": spaces.Discrete(5), "speed": spaces.Box(-9, 9, (2,))}
    )
    encoder = observation_encoder(space, 8)
    assert type(encoder) is PackedEncoder
    seen = [space.sample() for _ in range(6)]
    packed = torch.from_numpy(np.stack([pack(space, each) for each in seen]))
    encoder.fit(packed)
    found = encoder(packed.view(2, 3, -1)).flatten(0, 1)
    at, image, speed = (
        torch.as_tensor(np.stack([np.asarray(each[key]) for each in seen]))[None]
        for key in ("at", "image", "speed")
    )
    # A Dict's keys are in the order of the alphabet.
    of_at, of_image, of_speed = encoder.parts
    torch.testing.assert_close(of_speed.scale.mean, speed[0].mean(dim=0))
    expected = of_at(at) + of_image(image) + of_speed(speed)
    torch.testing.assert_close(found, expected[0])


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, ()), spaces.Dict(t=spaces.Box(-1, 1, ()))])
def test_a_single_number_is_a_vector_of_one(space):
    encoder = observation_encoder(space, 8)
    shape = (6, 5) if isinstance(space, spaces.Box) else (6, 5, 4)
    seen = torch.zeros(shape, dtype=torch.float32 if len(shape) == 2 else torch.uint8)
    encoder.fit(seen[:, 0])
    assert encoder(seen).shape == (6, 5, 8)
