"""Prompts are the episodes asked for, of histories of the very tasks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastad.base.errors import UserError
from fastad.evaluate.prompts import load_prompt
from fastad.histories.jobs import collect
from fastad.histories.reader import HistoryDataset

CPU = torch.device("cpu")


def dataset_of(path, rooms, **options):
    """Histories of all tasks of a small room, of which `rooms` has two."""
    collect(
        path, env="dark-room", env_kwargs=rooms.info.env_kwargs | options, source="frontier",
        num_histories=16, num_episodes=4, num_test=0, num_validation=0,
    )  # fmt: skip
    return HistoryDataset(path)


def test_the_source_shows_the_episodes_that_stand_beside_the_rollout(rooms):
    prompt = load_prompt(None, slice(1, 3), rooms, CPU)
    returns = rooms.baseline().result.returns[:, 1:3]
    assert prompt.steps.reward.shape == (6, 12)
    assert torch.equal(prompt.steps.reward.view(6, 2, 6).sum(dim=2), returns)
    assert prompt.steps.truncated[:, [5, 11]].all()
    assert prompt.mean_return == pytest.approx(returns.mean().item())
    assert (prompt.num_episodes, prompt.told) == (2, "episodes 1:3 of the source frontier")
    last = load_prompt(None, slice(-2, None), rooms, CPU)
    assert last.told == "episodes 2:4 of the source frontier"


def test_a_dataset_shows_its_histories_of_each_task_in_turn(rooms, tmp_path):
    data = dataset_of(tmp_path / "data", rooms)
    prompt = load_prompt(tmp_path / "data", slice(0, 2), rooms, CPU)
    rows = data.tasks[data.task_ids]
    for row, task in enumerate(rooms.rows.tolist()):
        found = np.flatnonzero((rows == task).all(axis=1))
        assert len(found) == 2  # 16 histories of 8 goals
        stored = data.read(int(found[row % 3 % 2]), 0, 12)
        for name in ("observation", "action", "reward"):
            shown = getattr(prompt.steps, name)[row].numpy()
            np.testing.assert_array_equal(shown, stored[name])
    assert prompt.steps.observation.dtype == prompt.steps.action.dtype == torch.int64
    assert prompt.told == f"episodes 0:2 of {tmp_path / 'data'}"


def test_episodes_that_vary_in_length_are_shown_whole(rooms, tmp_path):
    options = {"size": 3, "episode_length": 6, "terminate_on_goal": True}
    collect(
        tmp_path / "data", env="dark-room-hard", env_kwargs=options, source="frontier",
        num_histories=16, num_episodes=4, num_test=0, num_validation=0,
    )  # fmt: skip
    info = replace(rooms.info, env="dark-room-hard", env_kwargs=options, fixed_length=False)
    prompt = load_prompt(tmp_path / "data", slice(0, 3), replace(rooms, info=info), CPU)
    steps, begins = prompt.steps, prompt.begins.tolist()
    assert len(set(begins)) > 1
    assert min(begins) == 0
    for row, begin in enumerate(begins):
        ended = (steps.terminated | steps.truncated)[row, begin:]
        assert ended.sum() == 3
        assert ended[-1]
        assert steps.observation[row, begin].tolist() == [1, 1]  # an episode begins at the centre
        assert steps.reward[row, :begin].abs().sum() == 0


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (slice(0, 5), "prompt_episodes=0:5 are not there: the shortest history has 4 episodes"),
        (slice(-5, None), "prompt_episodes=-5: are not there"),
        (slice(2, 2), "prompt_episodes=2:2 are not there"),
    ],
)
def test_episodes_that_a_history_does_not_have_are_refused(rooms, episodes, message):
    with pytest.raises(UserError, match=message):
        load_prompt(None, episodes, rooms, CPU)


def test_without_histories_of_these_tasks_there_is_no_prompt(rooms, tmp_path):
    dataset_of(tmp_path / "data", rooms)
    other = replace(rooms, tasks=torch.tensor([[0, 0], [1, 1]]))  # the centre is no goal
    with pytest.raises(UserError, match=r"has no history of the test task \[1, 1\]; name"):
        load_prompt(tmp_path / "data", slice(None), other, CPU)
    longer = replace(rooms, info=replace(rooms.info, env_kwargs={"size": 3, "episode_length": 8}))
    with pytest.raises(UserError, match=r"is of DarkRoom\(.*6\), and the rollout of .*8\)"):
        load_prompt(tmp_path / "data", slice(None), longer, CPU)
    unknown = replace(rooms, info=replace(rooms.info, source="algorithm-distillation"))
    with pytest.raises(UserError, match="the source algorithm-distillation cannot be run again"):
        load_prompt(None, slice(None), unknown, CPU)
