import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import fastad.envs  # noqa: F401
from fastad.base.errors import UserError
from fastad.envs.registry import ENVS, gymnasium_id

UP, RIGHT, DOWN = 1, 2, 3
GYMNASIUM_IDS = [gymnasium_id(name) for name in ENVS]


def make(name, **kwargs):
    return gymnasium.make(f"fastad/{name}-v0", **kwargs)


def make_vec(name, **kwargs):
    return gymnasium.make_vec(f"fastad/{name}-v0", **kwargs)


@pytest.mark.parametrize("gymnasium_id", GYMNASIUM_IDS)
def test_gymnasiums_checker_passes_without_warnings(gymnasium_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(gymnasium_id).unwrapped)


def test_registering_needs_no_torch():
    script = (
        "import sys, gymnasium, fastad.envs; gymnasium.spec('fastad/DarkRoom-v0');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": sys.path[0]})


def test_the_goal_can_be_given():
    env = make("DarkRoom", goal=(5, 4))
    observation, info = env.reset(seed=0)

    _, reward, terminated, truncated, _ = env.step(RIGHT)

    assert observation.tolist() == [4, 4]
    assert info["task"].tolist() == [5, 4]
    assert (reward, terminated, truncated) == (1.0, False, False)


def test_the_last_observation_of_an_episode_is_its_true_end():
    env = make("DarkRoom", goal=(0, 0), episode_length=2)
    env.reset(seed=0)
    env.step(UP)

    observation, _, terminated, truncated, _ = env.step(UP)

    assert observation.tolist() == [4, 2]
    assert (terminated, truncated) == (False, True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(UP)


@pytest.mark.parametrize("store", ["pose", "frames"])
def test_gymnasium_gets_frames_whatever_is_stored(store):
    options = {"platform": (0.5, 0.25), "height": 16, "width": 24, "episode_length": 3}
    env = make("Watermaze", store=store, **options)
    vector = make_vec("Watermaze", num_envs=2, store=store, **options)
    assert env.observation_space == vector.single_observation_space
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (16, 24, 3), np.uint8)

    frame, info = env.reset(seed=0)
    frames, _ = vector.reset(seed=0)
    assert info["task"].tolist() == [0.5, 0.25]
    for _ in range(3):
        for shown in (frame, frames):
            assert shown.dtype == np.uint8
            assert shown.flags.c_contiguous
        frame = env.step(0)[0]
        frames, *_, info = vector.step(np.array([0, 4]))
    final = info["final_obs"]
    assert final[0].shape == (16, 24, 3)
    assert not np.array_equal(final[0], frames[0])


def test_every_task_argument_arrives_in_the_task():
    cases = [
        ("DarkRoomHard", {"goal": (1, 2)}, [1, 2]),
        ("DarkRoomPermuted", {"goal": (1, 2), "permutation": 7}, [1, 2, 7]),
        ("DarkKeyToDoor", {"key": (1, 2), "door": (3, 4)}, [1, 2, 3, 4]),
        ("BernoulliBandit", {"means": [0.25, 0.5, 1.0]}, [0.25, 0.5, 1.0]),
        ("Watermaze", {"platform": (0.5, -0.25)}, [0.5, -0.25]),
    ]
    for name, arguments, task in cases:
        assert make(name, **arguments).reset()[1]["task"].tolist() == task


def test_the_number_of_arms_follows_the_means():
    env = make("GaussianBandit", means=[0.0, 5.0], reward_std=0.0)
    env.reset()

    assert env.action_space.n == 2
    assert env.step(1)[1:4] == (5.0, True, False)


def test_a_task_that_is_not_given_is_drawn_from_the_seed():
    env = make("DarkKeyToDoor")
    tasks = [env.reset(seed=seed)[1]["task"].tolist() for seed in (1, 1, 2)]

    assert tasks[0] == tasks[1] != tasks[2]


def test_resets_without_a_seed_keep_the_task():
    env = make("DarkRoom")
    task = env.reset(seed=1)[1]["task"].tolist()

    assert all(env.reset()[1]["task"].tolist() == task for _ in range(5))


def test_reset_options_set_and_draw_tasks():
    env = make("DarkKeyToDoor", key=(0, 0), door=(1, 1))
    env.reset(seed=0)

    chosen = env.reset(options={"task": [1, 2, 3, 4]})[1]["task"].tolist()
    drawn = [tuple(env.reset(options={"task": "random"})[1]["task"]) for _ in range(5)]
    restored = env.reset(seed=0)[1]["task"].tolist()

    assert chosen == [1, 2, 3, 4]
    assert len(set(drawn)) == 5
    assert restored == [0, 0, 1, 1]


def test_adversarial_tasks_are_drawn_from_the_split_asked_for():
    train = make("AdversarialBandit", variant="c").reset(seed=0)[1]["task"]
    test = make("AdversarialBandit", variant="c", split="test").reset(seed=0)[1]["task"]

    assert train.argmax() % 2 == 1
    assert test.argmax() % 2 == 0
    with pytest.raises(UserError, match="split='test' is not possible: dark-room lists its tasks"):
        make("DarkRoom", split="test")


def test_text_shows_oneself_and_what_is_hidden():
    env = make("DarkKeyToDoor", key=(0, 1), door=(2, 0), size=3, start="centre", render_mode="ansi")
    env.reset()
    env.step(DOWN)

    assert env.render() == ". . D\nK . .\n. @ .\n"


def test_text_of_a_bandit_shows_its_means():
    env = make("BernoulliBandit", means=[0.25, 1.0], render_mode="ansi")
    env.reset()

    assert env.render() == "0.25 1.00\n"


def test_wrong_arguments_are_refused():
    with pytest.raises(
        UserError, match="unknown argument of dark-room 'gaol'; did you mean 'goal'"
    ):
        make("DarkRoom", gaol=(1, 2))
    with pytest.raises(UserError, match=r"goal=\(1, 2, 3\) is not possible; give 2 numbers"):
        make("DarkRoom", goal=(1, 2, 3))
    with pytest.raises(UserError, match="goal='left' is not possible"):
        make("DarkRoom", goal="left")
    with pytest.raises(UserError, match="door is not given; dark-key-to-door wants key and door"):
        make("DarkKeyToDoor", key=(1, 2))
    with pytest.raises(UserError, match="goal_x=9"):
        make("DarkRoom", goal=(9, 0))
    with pytest.raises(UserError, match=r"options\['task'\]='any' is not possible"):
        make("DarkRoom").reset(options={"task": "any"})


@pytest.mark.parametrize("action", [-1, 5])
def test_actions_that_do_not_exist_are_refused(action):
    env = make("DarkRoom", disable_env_checker=True)
    env.reset()

    with pytest.raises(UserError, match="out of range; give 1 integer"):
        env.step(action)


@pytest.mark.parametrize("gymnasium_id", GYMNASIUM_IDS)
def test_vector_results_lie_in_the_vector_spaces(gymnasium_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make_vec(gymnasium_id, num_envs=3)
        observation, _ = env.reset(seed=0)
        env.action_space.seed(0)

        assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        for _ in range(60):
            assert observation in env.observation_space
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            assert reward.dtype == np.float64
            assert terminated.dtype == truncated.dtype == np.bool_
            assert reward.shape == terminated.shape == truncated.shape == (3,)
        env.close()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("DarkRoom", {"goal": (3, 3), "episode_length": 5}),
        ("DarkRoomHard", {"goal": (8, 9), "terminate_on_goal": True, "episode_length": 7}),
        ("DarkKeyToDoor", {"key": (4, 4), "door": (4, 5), "start": "centre"}),
        ("BernoulliBandit", {"means": [0.0, 1.0]}),
    ],
)
def test_vector_environment_equals_gymnasiums_own_vectorisation(name, arguments):
    vector = make_vec(name, num_envs=4, **arguments)
    sync = SyncVectorEnv(
        [lambda: make(name, **arguments)] * 4, autoreset_mode=AutoresetMode.SAME_STEP
    )

    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert data_equivalence(vector.reset(seed=1), sync.reset(seed=1))
    vector.action_space.seed(1)
    for _ in range(80):
        actions = vector.action_space.sample()
        assert data_equivalence(vector.step(actions), sync.step(actions))


def test_vector_tasks_can_be_given_one_by_one():
    env = make_vec("DarkRoom", num_envs=2, goal=[(5, 4), (4, 3)])
    env.reset()

    assert env.step(np.array([RIGHT, RIGHT]))[1].tolist() == [1.0, 0.0]
    assert env.step(np.array([0, UP]))[1].tolist() == [1.0, 0.0]


def test_vector_tasks_are_drawn_from_the_seed():
    env = make_vec("DarkKeyToDoor", num_envs=3)

    first, again, other = (env.reset(seed=seed)[1]["task"] for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({tuple(task) for task in first}) == 3


def test_vector_results_are_not_changed_by_later_steps():
    env = make_vec("DarkRoom", num_envs=2, episode_length=2)
    returned = [env.reset(seed=0)[0]]
    copies = [returned[0].copy()]
    for action in (UP, RIGHT, DOWN, RIGHT):
        results = env.step(np.array([action, action]))[:4]
        returned += results
        copies += [array.copy() for array in results]

    assert all(np.array_equal(*pair) for pair in zip(returned, copies, strict=True))


def test_vector_results_may_be_written_to():
    env = make_vec("DarkRoom", num_envs=2)
    env.reset(seed=0)
    env.step(np.array([UP, UP]))[2].fill(True)
    assert env.step(np.array([UP, UP]))[2].tolist() == [False, False]


def test_vector_refuses_wrong_numbers():
    env = make_vec("DarkRoom", num_envs=2)
    env.reset()

    with pytest.raises(UserError, match="give 2 integer"):
        env.step(np.array([1, 2, 3]))
    with pytest.raises(UserError, match="num_envs=0 is not possible"):
        make_vec("DarkRoom", num_envs=0)
    with pytest.raises(UserError, match="give 2 numbers, or 2 such rows"):
        make_vec("DarkRoom", num_envs=2, goal=[(1, 2)] * 3)
