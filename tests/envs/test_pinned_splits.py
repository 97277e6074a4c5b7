"""Which tasks there are, in which order, and how they are split: every dataset rests on it."""

import hashlib

import pytest

from fastad.envs.registry import make_family
from fastad.envs.split import split_tasks

# Environment, options; number of all tasks, their second one, and the digest of all.
TASKS = [
    ("dark-room", {}, 80, [0, 1], "3ac0b4eb46f5f255"),
    ("dark-room", {"size": 5, "episode_length": 7}, 24, [0, 1], "02fdce83bd7cb462"),
    ("dark-room-hard", {}, 288, [0, 1], "20e2d7f34b172ed2"),
    ("dark-room-hard", {"size": 3, "terminate_on_goal": True}, 8, [0, 1], "275de6a7f1ade055"),
    ("dark-room-permuted", {}, 9600, [0, 0, 1], "aaa500a7d0bab07b"),
    ("dark-room-permuted", {"size": 3}, 960, [0, 0, 1], "b6e59ff5d96582ae"),
    ("dark-key-to-door", {}, 6561, [0, 0, 0, 1], "81d5b93c2463891d"),
    ("dark-key-to-door", {"size": 4}, 256, [0, 0, 0, 1], "aed0523214e2f23c"),
    ("dark-key-to-door", {"size": 3, "start": "centre"}, 81, [0, 0, 0, 1], "599479ed76d0555d"),
]

# Environment, options, train tasks asked for, hold-out and seed, with 3 validation and 6 test
# tasks; train tasks there are, and the digest of all tasks.
SPLITS = [
    ("dark-room", {}, None, "task", 0, 71, "2204bba9e280b22c"),
    ("dark-room", {}, 20, "cell", 7, 20, "40617e911d8bdcba"),
    ("dark-room", {"size": 5}, None, "task", 2**40, 15, "cbf94c51e0705355"),
    ("dark-room-hard", {}, None, "task", 3, 279, "2dd980e9c6a4bdcb"),
    ("dark-room-permuted", {}, 100, "cell", 1, 100, "153e078b13c7f1b3"),
    ("dark-room-permuted", {"size": 5}, None, "task", 5, 2871, "e6eff999c90ea529"),
    ("dark-key-to-door", {}, 500, "task", 0, 500, "b7a972d66543729b"),
    ("dark-key-to-door", {}, None, "cell", 4, 5776, "bcbfc9289861dd20"),
    ("dark-key-to-door", {"size": 5, "start": "centre"}, None, "cell", 0, 400, "958d896d962ad54f"),
    ("bernoulli-bandit", {}, 50, "task", 0, 50, "3b738f1d5c6dcfee"),
    ("bernoulli-bandit", {"num_arms": 3}, 20, "task", 9, 20, "a51b154785657761"),
    ("gaussian-bandit", {}, 50, "task", 0, 50, "3b738f1d5c6dcfee"),
    ("gaussian-bandit", {"num_arms": 5, "reward_std": 0.1}, 7, "task", 1, 7, "97943b9b19303c11"),
    ("adversarial-bandit", {}, 50, "task", 0, 50, "41f59db8d76cef58"),
    ("adversarial-bandit", {"variant": "b"}, 50, "task", 2, 50, "5cc1132e7373cd79"),
    (
        "adversarial-bandit", {"variant": "c", "num_arms": 4}, 50, "task", 2, 50,
        "f6b3bf2b164ca13c",
    ),
]  # fmt: skip


def digest(tasks):
    """Of the numbers' bytes, little-endian whatever the machine."""
    array = tasks.numpy()
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("env", "options", "count", "second", "expected"), TASKS)
def test_all_tasks_in_their_order(env, options, count, second, expected):
    tasks = make_family(env, **options).tasks()

    assert len(tasks) == count
    assert tasks[1].tolist() == second
    assert digest(tasks) == expected


@pytest.mark.parametrize(
    ("env", "options", "num_train", "holdout", "seed", "trained", "expected"), SPLITS
)
def test_splits_of_a_seed(env, options, num_train, holdout, seed, trained, expected):
    split = split_tasks(
        make_family(env, **options), num_train=num_train, num_validation=3, num_test=6,
        holdout=holdout, seed=seed,
    )  # fmt: skip

    assert [len(part) for part in (split.train, split.validation, split.test)] == [trained, 3, 6]
    assert digest(split.all) == expected
