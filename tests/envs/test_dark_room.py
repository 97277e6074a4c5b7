from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom, DarkRoomHard, DarkRoomPermuted

NOOP, UP, RIGHT, DOWN, LEFT = range(5)


def room(goals, cls=DarkRoom, **kwargs):
    return cls(**kwargs).make(torch.tensor(goals), torch.Generator())


def play(env, actions):
    """Rewards and true ends (before any auto-reset) of one environment."""
    rewards, ends = [], []
    for action in actions:
        rewards.append(env.step(torch.tensor([action]))[1].item())
        ends.append(tuple(env.final_observation[0].tolist()))
    return rewards, ends


def best_return(env, num_steps):
    """Value iteration over (cell, collected) for one environment whose goal pays on entry."""
    rules, goal = env.rules(), int(env.family.cells(env.tasks))
    moves, once = rules.transitions()[0], rules.num_phases == 2
    value = torch.zeros(2, rules.num_states)
    for _ in range(num_steps):
        on_goal = (moves == goal).float()
        fresh = (
            on_goal + torch.where(moves == goal, value[int(once)][moves], value[0][moves])
        ).amax(dim=1)
        value = torch.stack((fresh, value[1][moves].amax(dim=1)))
    return value[0, rules.num_states // 2].item()


def test_episodes_start_at_the_centre():
    assert room([[0, 0], [8, 8]]).reset().tolist() == [[4, 4], [4, 4]]
    assert room([[0, 0]], DarkRoomHard).reset().tolist() == [[8, 8]]


@pytest.mark.parametrize(
    ("action", "end"),
    [(NOOP, (4, 4)), (UP, (4, 3)), (RIGHT, (5, 4)), (DOWN, (4, 5)), (LEFT, (3, 4))],
)
def test_each_action_moves_its_own_way(action, end):
    assert play(room([[0, 0]]), [action])[1] == [end]


@pytest.mark.parametrize(
    ("action", "end"), [(UP, (4, 0)), (RIGHT, (8, 4)), (DOWN, (4, 8)), (LEFT, (0, 4))]
)
def test_walls_stop_moves(action, end):
    assert play(room([[0, 0]]), [action] * 6)[1][-1] == end


@pytest.mark.parametrize("action", [-1, 5])
def test_actions_that_do_not_exist_are_refused(action):
    with pytest.raises(IndexError):
        room([[0, 0]]).step(torch.tensor([action]))


def test_every_step_that_ends_on_the_goal_is_rewarded():
    rewards, _ = play(room([[5, 4]]), [UP, DOWN, RIGHT, NOOP, LEFT, RIGHT, NOOP])

    assert rewards == [0, 0, 1, 1, 0, 1, 1]


def test_a_wall_that_holds_one_on_the_goal_is_rewarded_again():
    rewards, _ = play(room([[8, 4]]), [RIGHT] * 6)

    assert rewards == [0, 0, 0, 1, 1, 1]


def test_the_twentieth_step_truncates_and_shows_the_next_episode():
    env = room([[0, 0]])
    for step in range(1, 41):
        observation, _, terminated, truncated = env.step(torch.tensor([UP]))
        assert not terminated.item()
        assert truncated.item() == (step in (20, 40))
        if truncated.item():
            assert observation.tolist() == [[4, 4]]
            assert env.final_observation.tolist() == [[4, 0]]
        else:
            assert torch.equal(observation, env.final_observation)


def test_hard_rewards_exactly_once_per_episode():
    env = room([[8, 9]], DarkRoomHard)

    rewards, _ = play(env, [DOWN, NOOP, UP, DOWN] + [NOOP] * 16 + [NOOP, DOWN, NOOP])

    assert rewards == [1.0] + [0.0] * 19 + [0.0, 1.0, 0.0]


def test_hard_goes_on_to_its_fixed_length_by_default():
    env = room([[8, 9]], DarkRoomHard)
    env.step(torch.tensor([DOWN]))

    assert env.fixed_length
    assert env.step(torch.tensor([DOWN]))[0].tolist() == [[8, 10]]


def test_hard_can_terminate_on_the_goal_and_reward_again_in_the_next_episode():
    env = room([[8, 9], [0, 0]], DarkRoomHard, terminate_on_goal=True)
    down = torch.tensor([DOWN, DOWN])
    for _ in range(2):
        observation, reward, terminated, truncated = env.step(down)
        assert reward.tolist() == [1.0, 0.0]
        assert terminated.tolist() == [True, False]
        assert truncated.tolist() == [False, False]
        assert observation[0].tolist() == [8, 8]
        assert env.final_observation[0].tolist() == [8, 9]
    assert not env.fixed_length
    assert observation[1].tolist() == [8, 10]


def test_permutation_says_what_each_action_does():
    order = (2, 0, 1, 4, 3)
    index = list(permutations(range(5))).index(order)

    for action, move in enumerate(order):
        permuted = play(room([[0, 0, index]], DarkRoomPermuted), [action])
        assert permuted == play(room([[0, 0]]), [move])


def test_permutation_zero_is_dark_room():
    actions = [UP, RIGHT, RIGHT, NOOP, DOWN, LEFT]

    permuted = play(room([[6, 3, 0]], DarkRoomPermuted), actions)

    assert permuted == play(room([[6, 3]]), actions)


def test_permuted_transitions_differ_between_tasks():
    env = room([[0, 0, 0], [0, 0, 119]], DarkRoomPermuted)

    table = env.rules().transitions()

    # Permutation 119 is (4, 3, 2, 1, 0); the centre is cell 40, its neighbours 31, 49, 39, 41.
    assert table.shape == (2, 81, 5)
    assert table[0, 40].tolist() == [40, 39, 49, 41, 31]
    assert table[1, 40].tolist() == [31, 41, 49, 39, 40]


@pytest.mark.parametrize(
    ("cls", "count"), [(DarkRoom, 80), (DarkRoomHard, 288), (DarkRoomPermuted, 9600)]
)
def test_every_task_is_enumerated_once_and_is_possible(cls, count):
    family = cls()
    tasks = family.tasks()

    assert tasks.shape == (count, len(family.task_fields))
    assert len(tasks.unique(dim=0)) == count
    family.make(tasks, torch.Generator())


def test_tasks_follow_the_size_and_ignore_other_options():
    assert len(DarkRoom(size=5, episode_length=7).tasks()) == 24


def test_optimum_by_hand():
    env = room([[5, 4], [0, 0], [4, 8]])

    # 1, 8 and 4 steps away; the step that arrives is rewarded already.
    assert env.optimal_return().tolist() == [20.0, 13.0, 17.0]


@pytest.mark.parametrize(
    ("cls", "options"),
    [(DarkRoom, {}), (DarkRoomHard, {"size": 9}), (DarkRoomPermuted, {"size": 5})],
)
def test_following_the_expert_earns_the_optimum(cls, options):
    family = cls(**options)
    env = family.make(family.tasks(), torch.Generator())
    observation, total = env.reset(), torch.zeros(env.num_envs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(env.episode_length):
        action = torch.multinomial(env.expert(observation), 1, generator=generator)[:, 0]
        observation, reward, *_ = env.step(action)
        total += reward

    assert torch.equal(total, env.optimal_return())


def test_experts_take_every_shortest_path_and_stay_on_the_goal():
    env = room([[5, 5], [4, 3], [4, 3]])
    env.step(torch.tensor([NOOP, NOOP, UP]))
    observation = torch.tensor([[4, 4], [4, 4], [4, 3]])

    assert env.expert(observation).tolist() == [
        [0, 0, 0.5, 0.5, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]


def test_optimum_of_goals_out_of_reach_is_zero():
    assert room([[0, 0], [4, 5]], episode_length=7).optimal_return().tolist() == [0.0, 7.0]
    hard = room([[0, 0], [0, 1]], DarkRoomHard, episode_length=15)
    assert hard.optimal_return().tolist() == [0.0, 1.0]


def test_all_hard_goals_can_be_reached_in_the_default_episode():
    env = DarkRoomHard().make(DarkRoomHard().tasks(), torch.Generator())

    assert env.optimal_return().unique().tolist() == [1.0]


@settings(max_examples=40, deadline=None)
@given(
    cls=st.sampled_from([DarkRoom, DarkRoomHard, DarkRoomPermuted]),
    size=st.sampled_from([3, 5, 7]),
    episode_length=st.integers(1, 14),
    choice=st.integers(0, 10**6),
)
def test_optimum_equals_value_iteration(cls, size, episode_length, choice):
    family = cls(size=size, episode_length=episode_length)
    tasks = family.tasks()
    env = family.make(tasks[choice % len(tasks)][None], torch.Generator())

    assert env.optimal_return().item() == best_return(env, episode_length)


@settings(max_examples=40, deadline=None)
@given(
    goal=st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda goal: goal != (2, 2)),
    hard=st.booleans(),
    terminate=st.booleans(),
    actions=st.lists(st.integers(0, 4), min_size=1, max_size=40),
)
def test_steps_equal_a_literal_reading_of_the_rules(goal, hard, terminate, actions):
    options = {"terminate_on_goal": terminate} if hard else {}
    cls = DarkRoomHard if hard else DarkRoom
    env = room([list(goal)], cls, size=5, episode_length=6, **options)
    x, y, time, paid = 2, 2, 0, False
    for action in actions:
        dx, dy = {NOOP: (0, 0), UP: (0, -1), RIGHT: (1, 0), DOWN: (0, 1), LEFT: (-1, 0)}[action]
        x, y, time = min(max(x + dx, 0), 4), min(max(y + dy, 0), 4), time + 1
        reward = (x, y) == goal and not (hard and paid)
        paid = paid or reward
        terminated = hard and terminate and reward
        observation, got, *done = env.step(torch.tensor([action]))

        assert got.item() == reward
        assert [flag.item() for flag in done] == [terminated, time == 6]
        assert env.final_observation.tolist() == [[x, y]]
        if terminated or time == 6:
            x, y, time, paid = 2, 2, 0, False
        assert observation.tolist() == [[x, y]]


@pytest.mark.parametrize("size", [1, 2, 8, 0, -3])
def test_rooms_without_a_centre_are_refused(size):
    with pytest.raises(UserError, match=f"size={size} is not possible; it must be odd"):
        DarkRoom(size=size)


def test_impossible_tasks_are_refused_with_their_place():
    with pytest.raises(UserError, match=r"tasks\[1\] has goal_y=9; with size=9 .* 0\.\.8"):
        room([[0, 0], [0, 9]])
    with pytest.raises(UserError, match=r"tasks\[0\] has goal_x=-1"):
        room([[-1, 0]])
    with pytest.raises(UserError, match=r"permutation=120; .* 0\.\.119"):
        room([[0, 0, 120]], DarkRoomPermuted)
    with pytest.raises(UserError, match=r"tasks\[0\] has its goal at \(4, 4\), the centre"):
        room([[4, 4]])


def test_tasks_of_the_wrong_form_are_refused():
    with pytest.raises(UserError, match=r"shape \(1, 3\) do not fit dark-room; .* goal_x, goal_y"):
        room([[0, 0, 0]])
    with pytest.raises(UserError, match=r"tasks are torch\.float32"):
        room([[0.0, 1.0]])
    with pytest.raises(UserError, match="N >= 1"):
        DarkRoom().make(torch.empty(0, 2, dtype=torch.int64), torch.Generator())


def test_episodes_without_a_step_are_refused():
    with pytest.raises(UserError, match="episode_length=0 is not possible; use 1 or more"):
        room([[0, 0]], episode_length=0)


def test_where_steps_end_has_the_numbers_of_its_coordinates():
    family = DarkRoom(size=5, episode_length=3)
    generator = torch.Generator().manual_seed(0)
    env = family.make(family.tasks(), generator)
    state, kept = env.rules().state, []
    env.reset()
    for _ in range(7):  # ends of episodes included
        observation, *_ = env.step(torch.randint(5, (env.num_envs,), generator=generator))
        shown = observation, env.final_observation
        kept += [(state(seen), 5 * seen[:, 0] + seen[:, 1]) for seen in shown]
    # Numbers that were given once are not changed by later steps.
    assert all(torch.equal(*pair) for pair in kept)
