"""Dict and Tuple spaces: their leaves, packed observations, and JSON that may be damaged."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.base.errors import UserError
from fastad.spaces import leaves, pack, space_from_json, space_to_json, stored_as, unpack

NESTED = spaces.Dict(
    {
        "agent": spaces.Dict({"position": spaces.Box(-1, 1, (2,), np.float64)}),
        "direction": spaces.Discrete(4),
        "hand": spaces.Tuple((spaces.Discrete(300), spaces.MultiDiscrete([3, 5]))),
        "image": spaces.Box(0, 255, (2, 2, 1), np.uint8),
    }
)


def test_leaves_are_named_by_their_keys_and_lie_one_after_another():
    found = [
        (leaf.name, leaf.dtype.name, leaf.shape, leaf.start, leaf.stop) for leaf in leaves(NESTED)
    ]
    assert found == [
        ("agent.position", "float32", (2,), 0, 8),
        ("direction", "uint8", (), 8, 9),
        ("hand.0", "uint16", (), 9, 11),
        ("hand.1", "uint8", (2,), 11, 13),
        ("image", "uint8", (2, 2, 1), 13, 17),
    ]
    assert stored_as(NESTED) == (np.dtype(np.uint8), (17,))


def test_an_observation_is_the_bytes_of_its_leaves():
    space = spaces.Dict({"a": spaces.Discrete(300), "b": spaces.Box(0, 1, (1,), np.float32)})
    packed = pack(space, {"b": np.array([1.0], np.float32), "a": np.int64(258)})
    # 258 = 1 * 256 + 2, and 1.0 as a float32 is 0x3f800000, both little-endian.
    assert packed.tolist() == [2, 1, 0, 0, 0x80, 0x3F]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_unpacked_is_what_was_packed(shape):
    NESTED.seed(3)
    samples = [NESTED.sample() for _ in range(int(np.prod(shape)))]
    packed = torch.from_numpy(np.stack([pack(NESTED, sample) for sample in samples]))
    found = unpack(NESTED, packed.reshape(*shape, 17))
    kinds = {name: value.dtype for name, value in found.items()}
    assert kinds == {
        "agent.position": torch.float32,
        "direction": torch.int64,
        "hand.0": torch.int64,
        "hand.1": torch.int64,
        "image": torch.uint8,
    }
    assert found["image"].shape == (*shape, 2, 2, 1)
    for index, sample in enumerate(samples):
        flat = {
            name: value.reshape(-1, *value.shape[len(shape) :]) for name, value in found.items()
        }
        assert flat["direction"][index] == sample["direction"]
        assert flat["hand.0"][index] == sample["hand"][0]
        assert flat["hand.1"][index].tolist() == sample["hand"][1].tolist()
        position = sample["agent"]["position"].astype(np.float32)
        assert flat["agent.position"][index].tolist() == position.tolist()
        assert (flat["image"][index].numpy() == sample["image"]).all()


def test_a_plain_space_is_one_leaf_without_a_name():
    (leaf,) = leaves(spaces.Box(0, 1, (3,), np.float64))
    assert (leaf.name, leaf.dtype, leaf.start, leaf.stop) == ("", np.dtype(np.float64), 0, 24)


def test_json_keeps_a_nested_space_and_the_order_of_its_keys():
    backwards = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(3)}, sort_keys=False)
    for space in (NESTED, backwards, spaces.Tuple((spaces.Discrete(2),))):
        again = space_from_json(space_to_json(space))
        assert again == space
        assert leaves(again) == leaves(space)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            spaces.Dict({"mission": spaces.Text(8), "d": spaces.Discrete(2)}),
            "key 'mission'.*observe=",
        ),
        (spaces.Tuple((spaces.Discrete(2), spaces.Graph(spaces.Discrete(2), None))), "key '1'"),
        (spaces.Dict({"a": spaces.Dict({"s": spaces.Sequence(spaces.Discrete(2))})}), "key 'a.s'"),
        (spaces.Dict({}), "0 parts"),
        (
            spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}),
            "another name",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_key(space, words):
    for refuses in (leaves, space_to_json, stored_as):
        with pytest.raises(UserError, match=words):
            refuses(space)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (1, r"observation is 1, its space has \['a', 'b'\]"),
        ({"a": 1}, r"parts \['a'\], its space \['a', 'b'\]"),
        ({"a": 1, "b": np.zeros(2)}, r"key 'b' has shape \(2,\), its space \(1,\)"),
    ],
)
def test_an_observation_of_another_form_is_refused(observation, words):
    space = spaces.Dict({"a": spaces.Discrete(300), "b": spaces.Box(0, 1, (1,), np.float32)})
    with pytest.raises(UserError, match=words):
        pack(space, observation)


DISCRETE = {"type": "Discrete", "n": 2, "start": 0}
BIG = {"type": "Box", "shape": [2**24], "low": 0.0, "high": 1.0, "dtype": "uint8"}


def nested(depth):
    return {"type": "Tuple", "spaces": [nested(depth - 1)]} if depth else DISCRETE


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"type": "Dict"}, "malformed"),
        ({"type": "Dict", "spaces": {"a": DISCRETE}}, "spaces must be"),
        ({"type": "Dict", "spaces": [[1, DISCRETE]]}, "pairs of a key"),
        ({"type": "Dict", "spaces": [["a", DISCRETE], ["a", DISCRETE]]}, "a key stands twice"),
        ({"type": "Tuple", "spaces": []}, "0 parts"),
        ({"type": "Tuple", "spaces": [None]}, "is no description"),
        ({"type": "Tuple", "spaces": [BIG, BIG]}, "33,554,43. numbers"),
        ({"type": "Tuple", "spaces": [DISCRETE] * 1025}, "at most 1024"),
        (nested(9), "nested deeper than 8"),
        ({"type": "Tuple", "spaces": [{"type": "Text"}]}, "'Text' is not supported"),
    ],
)
def test_a_damaged_description_is_refused(description, words):
    with pytest.raises(UserError, match=words):
        space_from_json(description)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "spaces", "n", "start", "nvec", "shape", "low", "high", "dtype"]
            ),
            inner | st.sampled_from(["Dict", "Tuple", "Discrete", "Box"]),
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["type", "spaces", "n", "shape"]), JSON))
def test_any_json_is_a_space_or_a_user_error(description):
    try:
        space = space_from_json(description)
    except UserError:
        return
    assert space_from_json(space_to_json(space)) == space


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_json_keeps_the_bounds_of_boxes_of_64_bits(dtype):
    limits = np.iinfo(dtype)
    space = spaces.Box(limits.min, limits.max, (2,), dtype)
    assert space_from_json(space_to_json(space)) == space
