"""Any histories come back as they were appended; what leaves its space is refused."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.histories.columns import columns
from fastad.histories.meta import shard_range
from fastad.histories.reader import HistoryDataset
from fastad.histories.verify import verify_dataset
from fastad.histories.writer import ShardWriter, create_dataset
from fastad.spaces import pack
from tests.conftest import build_info

SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
PLAIN = st.one_of(
    st.builds(spaces.Discrete, st.integers(1, 300), start=st.integers(-3, 3)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 300), min_size=1, max_size=3)),
    st.builds(
        lambda shape, dtype: spaces.Box(-1, 1, shape, dtype), SIZES,
        st.sampled_from([np.float32, np.float64]),
    ),
    st.builds(lambda shape: spaces.Box(0, 255, shape, np.uint8), SIZES),
)  # fmt: skip
OBSERVATIONS = st.one_of(
    PLAIN, st.dictionaries(st.sampled_from("abc"), PLAIN, min_size=1).map(spaces.Dict)
)
ACTIONS = st.one_of(
    st.builds(spaces.Discrete, st.integers(2, 6)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(2, 4), min_size=1, max_size=2)),
    st.builds(lambda n: spaces.Box(-1, 1, (n,), np.float32), st.integers(1, 3)),
)


@st.composite
def histories(draw):
    """A dataset's description, where its episodes end, and how its steps come in blocks."""
    num_histories, num_steps = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    ends = draw(
        st.lists(
            st.lists(st.booleans(), min_size=num_steps, max_size=num_steps),
            min_size=num_histories,
            max_size=num_histories,
        )
    )
    cuts = draw(st.sets(st.integers(1, num_steps), max_size=3))
    info = build_info(
        env="elsewhere", env_kwargs={}, observation_space=draw(OBSERVATIONS),
        action_space=draw(ACTIONS), num_histories=num_histories, num_steps=num_steps,
        num_shards=draw(st.integers(1, num_histories)), episode_length=num_steps,
        fixed_length=False,
    )  # fmt: skip
    return info, np.array(ends), sorted({0, *cuts, num_steps}), draw(st.integers(0, 2**31))


def sampled(info, ends, seed):
    """Steps that lie in the spaces: every column of all histories, as tensors (N, T, ...)."""
    space, rng = info.observation_space, np.random.default_rng(seed)
    for drawn in (space, info.action_space):
        drawn.seed(seed)
    observation, action = [], []
    for _ in range(ends.size):
        value = space.sample()
        observation.append(pack(space, value) if isinstance(space, spaces.Dict) else value)
        action.append(info.action_space.sample())
    params = rng.random((*ends.shape, info.actions.num_params), dtype=np.float32)
    policy = torch.from_numpy(params)
    if not isinstance(info.action_space, spaces.Box):
        groups = (
            info.action_space.nvec.tolist()
            if isinstance(info.action_space, spaces.MultiDiscrete)
            else [info.action_space.n]
        )
        policy = torch.cat([part.softmax(-1) for part in policy.split(groups, -1)], -1)
    terminated = rng.random(ends.shape) < 0.5
    return Transition(
        *(torch.from_numpy(np.stack(x).reshape(*ends.shape, *np.shape(x[0])))
          for x in (observation, action)),
        torch.from_numpy(rng.standard_normal(ends.shape, dtype=np.float32)),
        torch.from_numpy(ends & terminated),
        torch.from_numpy(ends & ~terminated),
        policy,
    )  # fmt: skip


def write(path, info, steps, cuts):
    create_dataset(path, info, np.arange(2 * info.num_tasks).reshape(-1, 2))
    for index in range(info.num_shards):
        rows = shard_range(info, index)
        ids = [history % info.num_tasks for history in rows]
        with ShardWriter(path, info, index, task_ids=ids, learner_ids=list(rows)) as writer:
            for first, stop in pairwise(cuts):
                block = (field[rows.start : rows.stop, first:stop] for field in steps)
                writer.append(Transition(*block))


@given(histories())
def test_what_was_appended_is_what_is_read(tmp_path_factory, drawn):
    info, ends, cuts, seed = drawn
    path, steps = tmp_path_factory.mktemp("histories") / "data", sampled(info, ends, seed)
    write(path, info, steps, cuts)
    dataset = HistoryDataset(path)
    assert dataset.info == info
    assert dataset.complete
    for history in range(info.num_histories):
        read = dataset.read(history, 0, info.num_steps)
        assert read.keys() == columns(info).keys()
        for name, values in read.items():
            appended = getattr(steps, name)[history]
            found = torch.from_numpy(np.array(values))
            if name == "policy":  # kept in fewer bits
                found, close = info.actions.restored(found), 1e-2
            else:
                close = 0.0
            torch.testing.assert_close(found.double(), appended.double(), rtol=0, atol=close)
        bounds = [0, *(np.flatnonzero(ends[history]) + 1), info.num_steps]
        assert dataset.episode_bounds(history).tolist() == sorted(set(bounds))
    verdict = verify_dataset(path)
    assert not verdict.wrong
    wrong = [line for line in verdict.unknown if ".fastad-dataset" not in line]
    assert not wrong  # no marker: nobody collected it


WRONG = {
    "observation": lambda x: torch.full_like(x, 255 if x.dtype == torch.uint8 else 127),
    "action": lambda x: torch.full_like(x, 100),
    "reward": lambda x: torch.full_like(x, math.nan),
    "policy": lambda x: torch.full_like(x, math.nan),
    "terminated": lambda x: torch.zeros_like(x, dtype=torch.int64) + 2,
}


@given(histories(), st.sampled_from(sorted(WRONG)))
def test_a_field_out_of_its_space_is_refused_and_nothing_of_it_is_stored(
    tmp_path_factory, drawn, field
):
    info, ends, _, seed = drawn
    if field == "observation" and not isinstance(info.observation_space, spaces.Box):
        return
    if field == "observation" and info.observation_space.dtype == np.uint8:
        return  # every byte is an image's
    steps = sampled(info, ends, seed)
    path = tmp_path_factory.mktemp("histories") / "data"
    create_dataset(path, info, np.arange(2 * info.num_tasks).reshape(-1, 2))
    rows = shard_range(info, 0)
    of_shard = Transition(*(values[rows.start : rows.stop] for values in steps))
    wrong = of_shard._replace(**{field: WRONG[field](getattr(of_shard, field))})
    with ShardWriter(
        path, info, 0, task_ids=[0] * len(rows), learner_ids=list(rows)
    ) as writer, pytest.raises(UserError, match=field):  # fmt: skip
        writer.append(wrong)
    with pytest.raises(UserError, match="no step is committed"):
        HistoryDataset(path)
