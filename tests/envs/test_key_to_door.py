import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.base.errors import UserError
from fastad.envs.key_to_door import DarkKeyToDoor

NOOP, UP, RIGHT, DOWN, LEFT = range(5)


def build(tasks, start="centre", seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return DarkKeyToDoor(start=start, **kwargs).make(torch.tensor(tasks), generator)


def rewards_of(env, actions):
    return [env.step(torch.tensor([action]))[1].item() for action in actions]


def best_return(env):
    """Value iteration over (cell, collected), in the mean over start cells."""
    rules, family = env.rules(), env.family
    moves, centre = rules.transitions()[0], rules.num_states // 2
    key, door = family.cells(env.tasks)[0].tolist()
    value = torch.zeros(3, rules.num_states)
    for _ in range(env.episode_length):
        rows = [
            (torch.where(moves == target, 1 + after[moves], here[moves])).amax(dim=1)
            for target, here, after in ((key, value[0], value[1]), (door, value[1], value[2]))
        ]
        value = torch.stack((*rows, torch.zeros(rules.num_states)))
    return (value[0].mean() if family.start == "random" else value[0, centre]).item()


def test_key_then_door_are_each_rewarded_once():
    env = build([[5, 4, 5, 5]])

    assert rewards_of(env, [RIGHT, NOOP, DOWN, NOOP, UP, DOWN]) == [1, 0, 1, 0, 0, 0]


def test_the_door_gives_nothing_before_the_key():
    env = build([[5, 4, 4, 5]])

    assert rewards_of(env, [DOWN, NOOP, UP, RIGHT, LEFT, DOWN]) == [0, 0, 0, 1, 0, 1]


def test_starting_on_the_key_counts_once_a_step_ends_there():
    assert rewards_of(build([[4, 4, 4, 5]]), [NOOP, DOWN]) == [1, 1]
    assert rewards_of(build([[4, 4, 4, 5]]), [DOWN, UP, DOWN]) == [0, 1, 1]


def test_a_shared_cell_takes_a_further_step_for_the_door():
    assert rewards_of(build([[5, 4, 5, 4]]), [RIGHT, NOOP, NOOP]) == [1, 1, 0]


def test_rewards_can_be_collected_again_in_the_next_episode():
    env = build([[5, 4, 6, 4]], episode_length=3)

    assert rewards_of(env, [RIGHT, RIGHT, NOOP] * 2) == [1, 1, 0] * 2


def test_an_episode_lasts_fifty_steps():
    env = build([[5, 4, 6, 4]])
    ends = [env.step(torch.tensor([RIGHT]))[2:] for _ in range(100)]

    assert [i for i, (_, truncated) in enumerate(ends, 1) if truncated.item()] == [50, 100]
    assert not any(terminated.item() for terminated, _ in ends)
    assert env.fixed_length


def test_terminate_on_door_ends_the_episode_at_the_door_only():
    env = build([[5, 4, 6, 4]], terminate_on_door=True)

    first, second = (env.step(torch.tensor([RIGHT])) for _ in range(2))

    assert not env.fixed_length
    assert (first[1].item(), first[2].item()) == (1.0, False)
    assert (second[1].item(), second[2].item(), second[3].item()) == (1.0, True, False)
    assert second[0].tolist() == [[4, 4]]
    assert env.final_observation.tolist() == [[6, 4]]
    assert rewards_of(env, [RIGHT, RIGHT]) == [1, 1]


def test_random_starts_are_uniform_over_all_cells():
    env = build([[0, 0, 0, 0]] * 8100, start="random")

    counts = torch.bincount(env.rules().state(env.reset()), minlength=81)

    # Poisson around 100: five standard deviations.
    assert counts.min() > 50
    assert counts.max() < 150


def test_random_starts_are_drawn_anew_in_every_episode():
    env = build([[0, 0, 0, 0]] * 100, start="random", episode_length=1)
    noop = torch.zeros(100, dtype=torch.int64)

    first, second = (env.step(noop)[0] for _ in range(2))

    assert (first != second).any(dim=1).float().mean() > 0.9


def test_starts_come_from_the_generator_alone():
    torch.manual_seed(0)
    first = build([[0, 0, 0, 0]] * 50, start="random", seed=3).reset()
    torch.manual_seed(1)

    assert torch.equal(first, build([[0, 0, 0, 0]] * 50, start="random", seed=3).reset())


def test_there_are_6561_tasks():
    tasks = DarkKeyToDoor().tasks()

    assert tasks.shape == (6561, 4)
    assert len(tasks.unique(dim=0)) == 6561
    assert tasks[1].tolist() == [0, 0, 0, 1]


def test_cells_of_a_task_are_its_key_and_its_door():
    tasks = torch.tensor([[1, 2, 3, 4]])

    assert DarkKeyToDoor().cells(tasks).tolist() == [[11, 31]]
    assert DarkKeyToDoor(size=5).cells(tasks).tolist() == [[7, 19]]


def test_optimum_of_the_default_is_two_for_every_task():
    env = DarkKeyToDoor().make(DarkKeyToDoor().tasks(), torch.Generator())

    assert env.optimal_return().unique().tolist() == [2.0]


def test_optimum_of_short_episodes_by_hand():
    # From the centre: the key is 1 step away and the door 2 from it.
    assert [
        build([[5, 4, 7, 4]], episode_length=length).optimal_return().item() for length in (1, 2, 3)
    ] == [1.0, 1.0, 2.0]
    # In one step, 3 of the 9 cells of a 3 x 3 room reach a corner: itself and its neighbours.
    env = build([[0, 0, 2, 2]], start="random", size=3, episode_length=1)
    assert env.optimal_return().item() == pytest.approx(3 / 9)


def test_optimum_of_a_shared_cell_counts_the_extra_step():
    lengths = (1, 2)

    assert [
        build([[4, 4, 4, 4]], episode_length=length).optimal_return().item() for length in lengths
    ] == [1.0, 2.0]


@settings(max_examples=40, deadline=None)
@given(
    task=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    episode_length=st.integers(1, 18),
    start=st.sampled_from(["random", "centre"]),
)
def test_optimum_equals_value_iteration(task, episode_length, start):
    env = build([task], start=start, size=5, episode_length=episode_length)

    assert env.optimal_return().item() == pytest.approx(best_return(env), abs=1e-5)


def test_following_the_expert_earns_the_optimum():
    num_episodes, length = 4000, 5
    env = build([[1, 3, 4, 2]] * num_episodes, start="random", size=5, episode_length=length)
    observation, total = env.reset(), torch.zeros(num_episodes)
    generator = torch.Generator().manual_seed(0)
    for _ in range(length):
        action = torch.multinomial(env.expert(observation), 1, generator=generator)[:, 0]
        observation, reward, *_ = env.step(action)
        total += reward

    # The standard error over random starts is below 0.01.
    assert total.mean().item() == pytest.approx(env.optimal_return()[0].item(), abs=0.04)


def test_experts_have_no_preference_once_all_is_collected():
    env = build([[5, 4, 6, 4]])
    observation = env.reset()
    for expected in ([0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0], [0.2] * 5):
        torch.testing.assert_close(env.expert(observation), torch.tensor([expected]))
        observation = env.step(torch.tensor([RIGHT]))[0]


def test_a_random_start_needs_no_centre():
    assert build([[0, 0, 3, 3]], start="random", size=4).rules().num_states == 16
    with pytest.raises(UserError, match="size=4 is not possible; it must be odd"):
        build([[0, 0, 3, 3]], start="centre", size=4)


def test_unknown_starts_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown start 'center'; did you mean 'centre'"):
        build([[0, 0, 3, 3]], start="center")
