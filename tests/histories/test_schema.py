import json

import numpy as np
import pytest
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.histories.columns import columns
from fastad.histories.fields import SCHEMA_VERSION
from fastad.histories.meta import shard_range
from fastad.histories.schema import DatasetInfo
from fastad.sources.registry import source_options


def test_info_survives_json(make_info):
    box = spaces.Box(-np.inf, 1.0, (3,), np.float32)
    info = make_info(observation_space=box, env_kwargs={"size": 11})  # no default
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_an_unknown_field_names_the_nearest(make_info):
    with pytest.raises(UserError, match=r"some.json: unknown field 'num_step'; did you mean"):
        DatasetInfo.from_json({**make_info().to_json(), "num_step": 3}, file="some.json")


def test_a_missing_field_is_named(make_info):
    values = make_info().to_json()
    del values["holdout"]
    with pytest.raises(UserError, match=r"some.json: field 'holdout' is missing"):
        DatasetInfo.from_json(values, file="some.json")


def test_a_field_that_older_versions_did_not_write_has_its_default(make_info):
    values = make_info(num_validation=0).to_json()
    del values["num_validation"], values["versions"]
    assert DatasetInfo.from_json(values) == make_info(versions={})


def test_tasks_lie_in_the_order_train_validation_test(make_info):
    info = make_info(num_train=4, num_validation=3, num_test=2)
    assert info.num_tasks == 9
    rows = [list(range(9))[info.task_rows(split)] for split in ("train", "validation", "test")]
    assert rows == [[0, 1, 2, 3], [4, 5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("name", "value"), [("num_steps", "12"), ("num_steps", True), ("env", 3), ("env_kwargs", [])]
)
def test_a_mistyped_field_is_named(make_info, name, value):
    with pytest.raises(UserError, match=rf"some.json: field '{name}' is"):
        DatasetInfo.from_json({**make_info().to_json(), name: value}, file="some.json")


def test_a_newer_version_asks_for_an_upgrade(make_info):
    values = {**make_info().to_json(), "schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(UserError, match=r"schema_version=3 is newer .* upgrade fastad"):
        DatasetInfo.from_json(values)


@pytest.mark.parametrize(
    ("space", "dtype", "shape"),
    [
        (spaces.Discrete(256), "uint8", ()),
        (spaces.Discrete(257), "uint16", ()),
        (spaces.Discrete(70_000), "uint32", ()),
        (spaces.Discrete(3, start=-1), "int16", ()),
        (spaces.MultiDiscrete([9, 17]), "uint8", (2,)),
        (spaces.Box(0, 255, (72, 96, 3), np.uint8), "uint8", (72, 96, 3)),
        (spaces.Box(-1, 1, (4,), np.float64), "float64", (4,)),
    ],
)
def test_observations_are_stored_in_the_smallest_dtype(make_info, space, dtype, shape):
    column = columns(make_info(observation_space=space))["observation"]
    assert column.dtype == np.dtype(dtype)
    assert column.shape == shape


def test_the_other_columns_have_fixed_dtypes(make_info):
    found = {name: (str(c.dtype), c.shape) for name, c in columns(make_info()).items()}
    assert found == {
        "observation": ("uint8", (2,)),
        "action": ("uint8", ()),
        "reward": ("float32", ()),
        "terminated": ("bool", ()),
        "truncated": ("bool", ()),
        "policy": ("float16", (5,)),
    }
    assert "policy" not in columns(make_info(policies=[]))


def test_shards_split_histories_evenly_and_in_order(make_info):
    info = make_info(num_histories=10, num_shards=3)
    assert [shard_range(info, i) for i in range(3)] == [range(3), range(3, 6), range(6, 10)]
    with pytest.raises(UserError, match="index=3"):
        shard_range(info, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        ({"num_train": -1}, "num_train=-1"),
        ({"num_validation": -1}, "num_validation=-1"),
        ({"num_train": 0, "num_test": 0}, "leave no task"),
        ({"num_shards": 7}, "num_shards=7 exceeds num_histories=6"),
        ({"action_space": spaces.Discrete(3, start=1)}, "starts at 0"),
        ({"action_space": spaces.Box(0, 1, (2, 2))}, "action_space=.* float32 vectors"),
        ({"policies": ["value"]}, r"policies=\['value'\] must be some of policy, expert_policy"),
        ({"policies": ["final_policy", "policy"]}, "in this order"),
    ],
)
def test_impossible_datasets_are_refused(make_info, changes, message):
    with pytest.raises(UserError, match=message):
        make_info(**changes)


def test_settings_have_the_defaults_of_options_that_were_not_given(make_info):
    given = make_info(env="dark-room", env_kwargs={}, source="q-learning", source_kwargs={})
    named = make_info(
        env="dark-room", env_kwargs={"size": 9, "episode_length": 20}, source="q-learning",
        source_kwargs={"learning_rate": source_options("q-learning")["learning_rate"]},
    )  # fmt: skip
    assert given.settings() == named.settings()
    other = make_info(env="dark-room", env_kwargs={"size": 11}, source="q-learning")
    assert given.settings() != other.settings()


def test_a_dataset_keeps_the_defaults_that_it_was_written_with(make_info, monkeypatch):
    info = make_info(
        env="dark-room", env_kwargs={}, source="q-learning", source_kwargs={"gamma": 0.5}
    )
    written = json.loads(json.dumps(info.to_json()))
    assert written["source_kwargs"] == source_options("q-learning") | {"gamma": 0.5}
    assert written["env_kwargs"] == {"size": 9, "episode_length": 20}
    assert DatasetInfo.from_json(written).source_kwargs == {"gamma": 0.5}
    upgraded = source_options("q-learning") | {"learning_rate": 0.6}
    monkeypatch.setattr("fastad.histories.schema.source_options", lambda name: upgraded)
    read = DatasetInfo.from_json(written)
    assert read.source_kwargs == {"gamma": 0.5, "learning_rate": 1.0}
    assert read.settings() == {**info.settings(), "source_kwargs": written["source_kwargs"]}


def test_options_that_an_older_dataset_does_not_name_have_the_values_of_its_time(make_info):
    written = make_info(env="dark-room", env_kwargs={}, source="actor-critic").to_json()
    former = {"critic_rate": 0.2, "entropy": 0.01, "initial_value": 0.0}
    read = DatasetInfo.from_json(written | {"source_kwargs": {"entropy": 0.3}})
    assert read.source_kwargs == former | {"entropy": 0.3}
    assert DatasetInfo.from_json(written).source_kwargs == {}


def test_settings_of_unknown_environments_are_as_they_were_given(make_info):
    info = make_info(env="mine", env_kwargs={"size": 3}, source="my-source", versions={"a": 1})
    assert info.settings()["env_kwargs"] == {"size": 3}
    assert not {"versions", "schema_version", "tasks_digest"} & info.settings().keys()
