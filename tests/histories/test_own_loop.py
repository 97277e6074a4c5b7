"""Collecting from a source with a loop of its own, Stable-Baselines3's PPO."""

import shutil
import threading

import numpy as np
import pytest

import fastad
from fastad.base.errors import UserError
from fastad.histories.jobs import prepare, shard_steps
from fastad.histories.reader import HistoryDataset
from fastad.histories.verify import verify_dataset

pytest.importorskip("stable_baselines3")

STAY = 0  # of Dark Room
ROOM = {"size": 3, "episode_length": 8}
SETTINGS = {
    "env": "dark-room", "env_options": ROOM, "source": "sb3:PPO", "num_histories": 4,
    "source_options": {"n_steps": 16, "batch_size": 8}, "num_episodes": 6, "num_test_tasks": 2,
}  # fmt: skip


def collect(out, progress=None, **changes):
    return fastad.collect(out=out, progress=progress, **SETTINGS | changes)


def columns(dataset):
    return [dataset.read(history, 0, 48) for history in range(dataset.num_histories)]


def test_a_stopped_collection_goes_on_with_the_shards_that_are_missing(tmp_path):
    whole = collect(tmp_path / "whole", shards=2)
    assert whole.complete
    assert whole.info.source == "sb3:PPO"
    assert verify_dataset(whole.path).wrong == []
    part = tmp_path / "part"
    shutil.copytree(whole.path, part)
    shutil.rmtree(part / "shard-00001")
    kept = (part / "shard-00000" / "meta.json").stat().st_mtime_ns
    again = collect(part, shards=2, resume=True)
    assert (part / "shard-00000" / "meta.json").stat().st_mtime_ns == kept
    for ours, theirs in zip(columns(again), columns(whole), strict=True):
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.slow  # processes that each import Stable-Baselines3
def test_shards_are_small_by_default_and_the_processes_do_not_change_the_data(tmp_path):
    one = collect(tmp_path / "one", num_histories=9)
    assert one.info.num_shards == 2
    two = collect(tmp_path / "two", num_histories=9, workers=2)
    for ours, theirs in zip(columns(one), columns(two), strict=True):
        np.testing.assert_array_equal(ours["action"], theirs["action"])
        np.testing.assert_array_equal(ours["policy"], theirs["policy"])


def test_progress_is_told_while_learners_learn_and_ends_at_the_total(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fastad.base.turns.by_turns.__kwdefaults__", {"seconds": 0.0}, raising=False
    )
    told = []
    collect(tmp_path / "d", lambda *counts: told.append(counts))
    done, totals = zip(*told, strict=True)
    assert set(totals) == {4 * 48}
    assert list(done) == sorted(done)
    assert len(set(done)) > 50
    assert done[-1] == 4 * 48


def test_labels_look_ahead_to_the_end_and_ask_the_expert(tmp_path):
    told = []
    data = collect(tmp_path / "d", lambda *counts: told.append(counts), labels=("expert", "final"))
    assert told[-1] == (4 * 48, 4 * 48)  # nothing is run twice
    steps = data.read(0, 0, 48)
    np.testing.assert_allclose(steps["final_policy"].sum(-1), 1, atol=2e-3)
    np.testing.assert_allclose(steps["expert_policy"].sum(-1), 1, atol=2e-3)
    # On the goal, and nowhere else, the expert may stay.
    at_goal = (steps["observation"] == data.tasks[data.task_ids[0]]).all(-1)
    assert at_goal.any()
    np.testing.assert_array_equal(steps["expert_policy"][:, STAY] > 0, at_goal)


def test_what_has_no_distribution_is_stored_without_and_says_how_to_train(tmp_path):
    pendulum = {
        "env": "gym:Pendulum-v1", "env_options": {"tasks": "seeds", "episode_length": 50},
        "source": "sb3:TD3", "num_train_tasks": 3, "num_episodes": 4,
        "source_options": {"learning_starts": 150, "policy_kwargs": {"net_arch": [8]}},
    }  # fmt: skip
    data = collect(tmp_path / "d", **pendulum)
    assert data.info.policies == []
    assert "policy" not in data.read(0, 0, 10)
    with pytest.raises(UserError, match="--target sampled"):
        fastad.train(data=data, out=tmp_path / "run", updates=1)
    with pytest.raises(UserError, match="'sb3:TD3' has no distribution to store; leave out final"):
        collect(tmp_path / "e", **pendulum, labels=("final",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_noise": 0.1}, "action_noise=0.1 is not possible with source 'sb3:PPO'"),
        ({"labels": ("final",), "look_ahead": 2}, "look_ahead=2 is not possible with source"),
        ({"source_options": {}}, "are 48 steps, and source 'sb3:PPO' first learns after 2,048"),
        ({"source_options": {"n_step": 8}}, "unknown option of sb3:PPO 'n_step'"),
        ({"source": "sb3:TD3", "source_options": {}}, "sb3:TD3' cannot learn env 'dark-room'"),
        (
            {
                "env": "watermaze",
                "env_options": {"store": "frames", "height": 16, "width": 24},
                "labels": ("expert",),
                "num_train_tasks": 2,
            },
            "store='frames' leaves no poses of earlier steps",
        ),
    ],
)
def test_what_is_not_possible_is_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        collect(tmp_path / "d", **changes)
    assert not (tmp_path / "d").exists()


def test_a_collection_that_is_left_half_way_commits_nothing_and_leaves_no_thread(tmp_path):
    before = threading.active_count()
    settings = {
        "env": "dark-room", "env_kwargs": ROOM, "source": "sb3:PPO", "num_histories": 2,
        "source_kwargs": {"n_steps": 16, "batch_size": 8}, "num_episodes": 600, "num_test": 2,
    }  # fmt: skip
    with prepare(tmp_path / "d", **settings) as info:
        steps = shard_steps(tmp_path / "d", info, 0)
        assert next(steps) > 0
        steps.close()
    assert threading.active_count() == before
    with pytest.raises(UserError, match="no step is committed yet"):
        HistoryDataset(tmp_path / "d")
