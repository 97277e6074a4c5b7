import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastad.base.errors import UserError
from fastad.envs.registry import make_family
from fastad.envs.split import split_tasks


def split(
    env="dark-room", *, num_train=None, num_validation=0, num_test=16, holdout="task", seed=0,
    **env_kwargs,
):  # fmt: skip
    return split_tasks(
        make_family(env, **env_kwargs),
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        holdout=holdout,
        seed=seed,
    )


def rows(tasks):
    return set(map(tuple, tasks.tolist()))


def test_train_and_test_together_are_all_tasks():
    tasks = split()

    assert len(tasks.train) == 64
    assert len(tasks.test) == 16
    assert rows(tasks.train) | rows(tasks.test) == rows(make_family("dark-room").tasks())


def test_the_seed_decides_the_split():
    first, again, other = split(seed=3), split(seed=3), split(seed=4)

    assert torch.equal(first.train, again.train)
    assert torch.equal(first.test, again.test)
    assert rows(first.test) != rows(other.test)


@pytest.mark.parametrize(
    ("env", "holdout"),
    [("dark-room", "task"), ("dark-key-to-door", "task"), ("dark-key-to-door", "cell"),
     ("dark-room-permuted", "cell"), ("gaussian-bandit", "task")],
)  # fmt: skip
def test_fewer_training_tasks_are_the_first_of_more_beside_the_same_held_out_ones(env, holdout):
    few, more = (split(env, num_train=n, num_validation=5, holdout=holdout) for n in (10, 50))

    assert torch.equal(few.train, more.train[:10])
    assert torch.equal(few.validation, more.validation)
    assert torch.equal(few.test, more.test)


def test_the_test_tasks_do_not_depend_on_the_validation_tasks():
    for env, holdout in (("dark-room", "task"), ("dark-key-to-door", "cell")):
        without, beside = (split(env, num_validation=v, holdout=holdout) for v in (0, 8))
        assert torch.equal(beside.test, without.test)
        assert len(beside.validation) == 8
        assert rows(beside.train) < rows(without.train)


def test_validation_tasks_are_held_out_by_cell_as_well():
    tasks = split("dark-key-to-door", num_validation=9, num_test=64, holdout="cell")
    cells = make_family("dark-key-to-door").cells
    train, validation, test = (
        set(cells(part).flatten().tolist()) for part in (tasks.train, tasks.validation, tasks.test)
    )

    # 8 cells make 64 pairs, 3 others make 9; the other 70 of 81 are left.
    assert (len(test), len(validation), len(train)) == (8, 3, 70)
    assert not test & validation
    assert not (test | validation) & train
    assert len(tasks.train) == 70**2


def test_holding_out_cells_is_holding_out_tasks_where_tasks_are_cells():
    by_task, by_cell = split(), split(holdout="cell")

    assert torch.equal(by_task.train, by_cell.train)
    assert torch.equal(by_task.test, by_cell.test)


def test_key_to_door_holds_out_the_fewest_cells_that_make_enough_pairs():
    tasks = split("dark-key-to-door", num_test=64, holdout="cell")
    cells = make_family("dark-key-to-door").cells

    # 8 cells make 64 pairs; the other 73 make 5,329.
    assert len(cells(tasks.test).unique()) == 8
    assert len(tasks.train) == 73**2
    assert not set(cells(tasks.test).flatten().tolist()) & set(
        cells(tasks.train).flatten().tolist()
    )


def test_permuted_holds_out_whole_goals():
    tasks = split("dark-room-permuted", num_test=121, holdout="cell")

    # One goal has 120 tasks, so two goals are held out and 78 are left.
    assert len(tasks.test[:, :2].unique(dim=0)) == 2
    assert len(tasks.train) == 78 * 120
    assert not rows(tasks.test[:, :2]) & rows(tasks.train[:, :2])


@settings(max_examples=30, deadline=None)
@given(
    env=st.sampled_from(["dark-room", "dark-room-hard", "dark-room-permuted", "dark-key-to-door"]),
    holdout=st.sampled_from(["task", "cell"]),
    sizes=st.tuples(st.integers(1, 8), st.integers(0, 8), st.integers(0, 8)),
    seed=st.integers(0, 2**40),
)
def test_splits_are_disjoint_and_of_the_sizes_asked_for(env, holdout, sizes, seed):
    num_train, num_validation, num_test = sizes
    tasks = split(
        env, num_train=num_train, num_validation=num_validation, num_test=num_test,
        holdout=holdout, seed=seed, size=5,
    )  # fmt: skip

    parts = [rows(part) for part in (tasks.train, tasks.validation, tasks.test)]
    assert tuple(map(len, parts)) == sizes
    assert len(set.union(*parts)) == sum(sizes)
    assert set.union(*parts) <= rows(make_family(env, size=5).tasks())
    assert tasks.all.tolist() == [
        row for part in (tasks.train, tasks.validation, tasks.test) for row in part.tolist()
    ]


def test_sampled_families_draw_disjoint_tasks_of_the_asked_for_width():
    tasks = split("bernoulli-bandit", num_train=50, num_test=20, num_arms=3)

    assert tasks.train.shape == (50, 3)
    assert tasks.test.shape == (20, 3)
    assert not rows(tasks.train) & rows(tasks.test)


def test_sampled_training_tasks_do_not_depend_on_the_number_of_test_tasks():
    few = split("bernoulli-bandit", num_train=50, num_test=0)
    many = split("bernoulli-bandit", num_train=50, num_validation=20, num_test=30)

    assert torch.equal(few.train, many.train)
    assert not rows(many.validation) & (rows(many.train) | rows(many.test))


def test_adversarial_training_favours_odd_arms_and_test_even_ones():
    tasks = split("adversarial-bandit", num_train=200, num_validation=50, num_test=200, variant="c")

    assert (tasks.train[:, 1::2] > 0.5).all()
    # What is looked at while training must not give away how the test differs.
    assert (tasks.validation[:, 1::2] > 0.5).all()
    assert (tasks.test[:, 0::2] > 0.5).all()


def test_task_means_do_not_repeat_the_numbers_of_a_plain_seed():
    tasks = split("bernoulli-bandit", num_train=5, num_test=0, seed=7)

    plain = torch.rand((5, 10), generator=torch.Generator().manual_seed(7))

    assert not torch.equal(tasks.train, plain)


def test_a_split_without_test_tasks_is_all_training():
    tasks = split(num_test=0)

    assert len(tasks.train) == 80
    assert tasks.test.shape == (0, 2)


def test_more_tasks_than_there_are_is_refused_with_the_numbers():
    with pytest.raises(
        UserError, match=r"num_train_tasks=70 .* and num_test_tasks=16 .* has 80 tasks"
    ):
        split(num_train=70)


def test_test_tasks_that_leave_none_for_training_are_refused():
    with pytest.raises(UserError, match="0 of the 80 tasks of dark-room are left for training"):
        split(num_test=80)


def test_cells_that_leave_too_few_validation_tasks_are_refused_with_the_numbers():
    # 4 of the 9 cells make 16 test pairs; the other 5 make 25, and none is left for training.
    with pytest.raises(UserError, match=r"0 of the 81 tasks .* training and 25 for validation"):
        split("dark-key-to-door", num_validation=30, num_test=16, holdout="cell", size=3)


def test_too_many_training_tasks_beside_held_out_cells_are_refused_with_the_numbers():
    with pytest.raises(UserError, match=r"num_train_tasks=6000 .* 5329 of the 6561 tasks"):
        split("dark-key-to-door", num_train=6000, num_test=64, holdout="cell")


def test_sampled_families_need_the_number_of_training_tasks():
    with pytest.raises(UserError, match="num_train_tasks is not given, and bernoulli-bandit"):
        split("bernoulli-bandit")


def test_bandits_have_no_cells_to_hold_out():
    with pytest.raises(UserError, match="holdout='cell' is not possible: bernoulli-bandit has no"):
        split("bernoulli-bandit", num_train=5, holdout="cell")


def test_impossible_arguments_are_refused():
    with pytest.raises(UserError, match="num_test_tasks=-1 is not possible; use 0 or more"):
        split(num_test=-1)
    with pytest.raises(UserError, match="num_validation_tasks=-1 is not possible; use 0 or more"):
        split(num_validation=-1)
    with pytest.raises(UserError, match="num_train_tasks=0 is not possible; use 1 or more"):
        split(num_train=0)
    with pytest.raises(UserError, match="seed=-1 is not possible"):
        split(seed=-1)
    with pytest.raises(UserError, match="unknown holdout 'cells'; did you mean 'cell'"):
        split(holdout="cells")
    with pytest.raises(UserError, match="unknown option of dark-room 'sise'; did you mean 'size'"):
        split(sise=5)
