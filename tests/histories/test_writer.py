import errno
import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.histories import shards
from fastad.histories.npy import create_array
from fastad.histories.reader import HistoryDataset
from fastad.histories.writer import ShardWriter, create_dataset, shard_is_complete


def open_writer(path, info, **changes):
    arguments = {"task_ids": [0, 1, 2], "learner_ids": [7, 8, 9]} | changes
    return ShardWriter(path, info, 0, **arguments)


@pytest.fixture
def begun(tmp_path, make_info):
    info = make_info()
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    return tmp_path, info


def test_blocks_come_back_as_they_were_written(begun, make_block):
    path, info = begun
    with open_writer(path, info) as writer:
        for steps in (range(0, 5), range(5, 10), range(10, 12)):
            writer.append(make_block(info, range(3), steps, None))
    dataset = HistoryDataset(path)
    assert dataset.learner_ids == [7, 8, 9]
    expected = make_block(info, range(3), range(12), None)
    for history in range(3):
        stored = list(dataset.read(history, 0, 12).values())
        for name, field, values in zip(expected._fields, expected, stored, strict=True):
            tolerance = 5e-4 if name == "policy" else 0.0
            np.testing.assert_allclose(values, field[history].numpy(), atol=tolerance)


def test_a_shard_has_one_writer_at_a_time(begun, make_block, monkeypatch):
    monkeypatch.setattr("fastad.histories.writer.WORKER_PATIENCE", 0.1)
    path, info = begun
    with open_writer(path, info) as writer:
        with pytest.raises(UserError, match="is being written by another process"):
            open_writer(path, info).__enter__()
        writer.append(make_block(info, range(3), range(12), None))
    assert shard_is_complete(path, info, 0)
    with open_writer(path, info) as again:
        assert again.committed_steps == 0


def test_creating_the_same_dataset_again_changes_nothing(begun, make_info):
    path, _ = begun
    before = (path / "dataset.json").read_bytes()
    create_dataset(path, make_info(versions={"fastad": "1"}), np.arange(12).reshape(6, 2))
    assert (path / "dataset.json").read_bytes() == before


def test_another_dataset_in_the_folder_is_refused(begun, make_info):
    path, info = begun
    with pytest.raises(UserError, match=r"dataset.json: field 'num_steps' is 12, not 13"):
        create_dataset(path, make_info(num_steps=13), np.arange(12).reshape(6, 2))
    with pytest.raises(UserError, match=r"tasks.npy: holds other tasks"):
        create_dataset(path, info, np.ones((6, 2)))


def test_tasks_must_match_the_split(tmp_path, make_info):
    with pytest.raises(UserError, match=r"tasks has shape \(5, 2\)"):
        create_dataset(tmp_path, make_info(), np.zeros((5, 2)))


def test_a_shard_is_complete_once_every_step_is_committed(begun, make_block):
    path, info = begun
    assert not shard_is_complete(path, info, 0)
    with open_writer(path, info) as writer:
        writer.append(make_block(info, range(3), range(11), None))
        assert not shard_is_complete(path, info, 0)
        writer.append(make_block(info, range(3), range(11, 12), None))
    assert shard_is_complete(path, info, 0)
    (path / "shard-00000" / "reward.npy").unlink()
    assert not shard_is_complete(path, info, 0)


def test_an_exception_leaves_the_committed_steps(begun, make_block):
    path, info = begun

    def fail_after_five_steps():
        with open_writer(path, info) as writer:
            writer.append(make_block(info, range(3), range(5), None))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail_after_five_steps()
    dataset = HistoryDataset(path)
    assert dataset.num_steps == 5
    assert dataset.read(2, 0, 5)["reward"].tolist() == [2000, 2001, 2002, 2003, 2004]


def test_a_reader_keeps_its_steps_when_the_shard_is_begun_again(begun, make_block):
    path, info = begun
    with open_writer(path, info) as writer:
        writer.append(make_block(info, range(3), range(5), None))
    earlier = HistoryDataset(path)
    with open_writer(path, info) as writer:
        with pytest.raises(UserError, match="no step is committed yet"):
            HistoryDataset(path)
        writer.append(make_block(info, range(3), range(2), None))
        assert HistoryDataset(path).num_steps == 2
    assert earlier.read(1, 0, 5)["reward"].tolist() == [1000, 1001, 1002, 1003, 1004]


def test_a_reader_looks_again_when_the_shard_is_begun_again_meanwhile(
    begun, make_block, monkeypatch
):
    path, info = begun
    with open_writer(path, info) as writer:
        writer.append(make_block(info, range(3), range(5), None))
    real = shards._open_column
    restarted = []

    def restart_then_open(*arguments):
        if not restarted:
            restarted.append(True)
            with open_writer(path, info) as writer:
                writer.append(make_block(info, range(3), range(1), None))
        return real(*arguments)

    monkeypatch.setattr(shards, "_open_column", restart_then_open)
    dataset = HistoryDataset(path)
    assert dataset.num_steps == 1
    assert dataset.read(1, 0, 1)["reward"].tolist() == [1000]


def test_meta_counts_attempts(begun, make_block):
    path, info = begun
    for attempt in (1, 2, 3):
        with open_writer(path, info) as writer:
            writer.append(make_block(info, range(3), range(4), None))
        meta = json.loads((path / "shard-00000" / "meta.json").read_text())
        assert (meta["attempt"], meta["committed_steps"]) == (attempt, 4)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("action", lambda x: x + 1, r"action of a block lies in \[1, 5\], outside \[0, 4\]"),
        ("observation", lambda x: x - 9, r"observation of a block lies in \[-9"),
        ("reward", lambda x: x / 0, "reward of a block holds values that are not finite"),
        ("action", lambda x: x.float(), r"action of a block is float32, stored as uint8"),
        ("action", lambda x: x.double() * torch.nan, r"action of a block is float64"),
        ("observation", lambda x: x + 0.7, r"observation of a block is float32, stored as uint8"),
        ("reward", lambda x: x.double() + 1e300, r"reward of a block lies in \[1e\+300"),
        ("policy", lambda x: x * 0.9, r"probabilities must not be negative and must sum to"),
        ("policy", lambda x: x - 0.5, r"policy of a block lies in \[-0"),
        ("reward", lambda x: x[:2], r"reward of a block has shape \(2, 4\), not \(3, 4\)"),
    ],
)
def test_a_wrong_block_is_refused_and_nothing_is_written(begun, make_block, field, change, message):
    path, info = begun
    block = make_block(info, range(3), range(4), None)
    with open_writer(path, info) as writer:
        with pytest.raises(UserError, match=message):
            writer.append(block._replace(**{field: change(getattr(block, field))}))
        assert writer.committed_steps == 0
        writer.append(block)
    assert HistoryDataset(path).num_steps == 4


def test_a_block_beyond_the_last_step_is_refused(begun, make_block):
    path, info = begun
    with open_writer(path, info) as writer:
        writer.append(make_block(info, range(3), range(10), None))
        with pytest.raises(UserError, match="block of 3 steps at step 10 exceeds num_steps=12"):
            writer.append(make_block(info, range(3), range(3), None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_ids": [0, 1]}, "task_ids has 2 entries; shard 0 holds 3 histories"),
        ({"learner_ids": [1]}, "learner_ids has 1 entries"),
        ({"task_ids": [0, 1, 6]}, "task_ids holds 6; tasks are 0 to 5"),
    ],
)
def test_wrong_histories_are_refused(begun, changes, message):
    path, info = begun
    with pytest.raises(UserError, match=message):
        open_writer(path, info, **changes)


def test_a_disk_too_small_is_an_error_and_not_a_bus_error(begun, monkeypatch):
    path, info = begun

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"observation.npy: cannot reserve 72 bytes \(No space"):
        open_writer(path, info).__enter__()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_blocks_that_cannot_be_claimed_unwritten_are_written(
    begun, make_block, monkeypatch, number
):
    path, info = begun

    def unsupported(*_):
        raise OSError(number, "Operation not supported")

    monkeypatch.setattr("os.posix_fallocate", unsupported)
    create_array(path / "large.npy", np.dtype(np.float32), (3, 1_000_000))
    assert (path / "large.npy").stat().st_blocks * 512 >= 12_000_000  # no hole is left
    with open_writer(path, info) as writer:
        writer.append(make_block(info, range(3), range(12), None))
    assert HistoryDataset(path).read(1, 0, 2)["reward"].tolist() == [1000, 1001]


def test_images_and_histories_without_policies_are_stored(tmp_path, make_info):
    info = make_info(observation_space=spaces.Box(0, 255, (4, 6, 3), np.uint8), policies=[])
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    images = torch.randint(256, (3, 4, 4, 6, 3), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([False, False, False, True]).expand(3, 4)
    zeros = torch.zeros(3, 4)
    with open_writer(tmp_path, info) as writer:
        fields = (images, zeros.long(), zeros, ends & False, ends)
        names = ("observation", "action", "reward", "terminated", "truncated")
        writer.append(dict(zip(names, fields, strict=True)))
    steps = HistoryDataset(tmp_path).read(1, 0, 4)
    assert steps["observation"].dtype == np.uint8
    np.testing.assert_array_equal(steps["observation"], images[1].numpy())
    assert "policy" not in steps


def test_further_policies_are_stored_beside_the_one_that_acted(tmp_path, make_info, make_block):
    info = make_info(policies=["policy", "expert_policy", "final_policy"])
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    block = make_block(info, range(3), range(4), None)
    expert = torch.eye(5)[torch.arange(12).reshape(3, 4) % 5]
    columns = {**block._asdict(), "expert_policy": expert, "final_policy": expert.flip(-1)}
    with open_writer(tmp_path, info) as writer:
        with pytest.raises(UserError, match="block lacks expert_policy, final_policy; the dataset"):
            writer.append(block)
        with pytest.raises(UserError, match=r"expert_policy of a block: .* is off by 0.5"):
            writer.append(columns | {"expert_policy": expert / 2})
        writer.append(columns)
    steps = HistoryDataset(tmp_path).read(1, 0, 4)
    np.testing.assert_array_equal(steps["expert_policy"], expert[1].numpy())
    np.testing.assert_array_equal(steps["final_policy"], expert[1].flip(-1).numpy())
    assert steps["policy"].max() == np.float16(0.6)


def test_continuous_actions_and_their_gaussians_are_stored(tmp_path, make_info):
    space = spaces.Box(-1, 1, (2,), np.float32)
    info = make_info(action_space=space)
    create_dataset(tmp_path, info, np.arange(12).reshape(6, 2))
    generator = torch.Generator().manual_seed(0)
    zeros, ends = torch.zeros(3, 4), torch.tensor([False, False, False, True]).expand(3, 4)
    block = Transition(
        torch.zeros(3, 4, 2, dtype=torch.long),
        2 * torch.rand(3, 4, 2, generator=generator) - 1,
        zeros, ends & False, ends,
        torch.randn(3, 4, 4, generator=generator),
    )  # fmt: skip
    with open_writer(tmp_path, info) as writer:
        with pytest.raises(UserError, match=r"action of a block lies in .* action_space is Box"):
            writer.append(block._replace(action=block.action * 9))
        with pytest.raises(UserError, match=r"policy of a block holds values that are not finite"):
            writer.append(block._replace(policy=block.policy / 0))
        writer.append(block)
    steps = HistoryDataset(tmp_path).read(1, 0, 4)
    np.testing.assert_array_equal(steps["action"], block.action[1].numpy())
    np.testing.assert_array_equal(steps["policy"], block.policy[1].numpy())


def test_a_writer_makes_way_for_whoever_began_the_shard_anew(begun, make_block, monkeypatch):
    """As where a lock broke: what the later one writes is not touched by the earlier."""
    path, info = begun
    monkeypatch.setattr("fastad.histories.writer.folder_lock", lambda *args, **kw: nullcontext())
    with open_writer(path, info) as early, open_writer(path, info) as late:
        late.append(make_block(info, range(3), range(5), None))
        with pytest.raises(UserError, match="was begun anew by another process"):
            early.append(make_block(info, range(3), range(12), None))
        late.append(make_block(info, range(3), range(5, 12), None))
    assert shard_is_complete(path, info, 0)
    stored, expected = HistoryDataset(path), make_block(info, range(3), range(12), None)
    for history in range(3):
        reward = stored.read(history, 0, 12)["reward"]
        np.testing.assert_array_equal(reward, expected.reward[history].numpy())
