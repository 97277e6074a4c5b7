"""Histories of one's own: whatever does not fit is refused as it comes."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import fastad
from fastad.base.errors import UserError
from fastad.histories.reader import HistoryDataset
from fastad.histories.verify import verify_dataset

# A corridor of 4 cells: episodes of at most 3 steps end at its end.
CORRIDOR: dict[str, Any] = {
    "env": "corridor", "observation_space": spaces.Discrete(4), "episode_length": 3,
    "action_space": spaces.Discrete(2), "num_tasks": 4, "num_validation": 1, "num_test": 1,
    "num_histories": 4, "num_steps": 6, "source": "drunkard",
}  # fmt: skip


def steps(num_steps=6, **changes):
    """Two episodes of three steps each."""
    index = np.arange(num_steps)
    return {
        "observation": index % 3, "action": index % 2, "reward": index.astype(float),
        "terminated": index % 3 == 2, "truncated": np.zeros(num_steps, bool),
        "policy": np.full((num_steps, 2), 0.5),
    } | changes  # fmt: skip


def part(of, first, last):
    return {name: values[first:last] for name, values in of.items()}


@pytest.fixture
def writer(tmp_path):
    with fastad.histories.create(tmp_path / "own", **CORRIDOR) as opened:
        yield opened
        while opened.num_histories < 4:
            opened.append(task=0, **steps())


def test_histories_whole_and_in_parts_are_read_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr("fastad.histories.own.SHARD_BYTES", 150)  # two of 72
    with fastad.histories.create(tmp_path / "own", **CORRIDOR) as writer:
        writer.append(task=1, **steps())
        for first, last in ((0, 3), (3, 5), (5, 6)):
            writer.append(task=0, **part(steps(reward=np.arange(6) * 10), first, last))
        writer.append(task=1, **steps())
        writer.append(task=3, **steps())  # of the test task
    data = HistoryDataset(tmp_path / "own")
    assert data.complete
    assert data.info.num_shards == 2
    assert data.task_ids.tolist() == [1, 0, 1, 3]
    assert list(data.learner_ids) == [0, 0, 1, 0]
    assert data.train_histories.tolist() == [0, 1, 2]
    assert data.tasks.tolist() == [[0], [1], [2], [3]]
    assert data.read(1, 0, 6)["reward"].tolist() == [0, 10, 20, 30, 40, 50]
    assert data.episode_bounds(1).tolist() == [0, 3, 6]
    assert verify_dataset(data.path).wrong == []


def test_histories_may_end_before_others_do(tmp_path, monkeypatch):
    monkeypatch.setattr("fastad.histories.own.SHARD_BYTES", 150)  # two of 72
    with fastad.histories.create(tmp_path / "own", **CORRIDOR) as writer:
        writer.append(task=0, last=True, **steps(4))
        writer.append(task=1, **part(steps(), 0, 1))
        writer.append(task=1, last=True, **part(steps(), 1, 2))
        writer.append(task=1, **steps())
        writer.append(task=0, last=True, **steps(6))
    data = HistoryDataset(tmp_path / "own")
    assert data.complete
    assert data.lengths.tolist() == [4, 2, 6, 6]
    assert data.num_steps == 2
    assert list(data.learner_ids) == [0, 0, 1, 1]
    assert [data.episode_bounds(h).tolist() for h in range(3)] == [[0, 3, 4], [0, 2], [0, 3, 6]]
    assert [data.num_episodes(h) for h in range(4)] == [1, 0, 2, 2]
    assert data.read(1, 0, 2)["reward"].tolist() == [0, 1]
    with pytest.raises(IndexError, match=r"leave history 1 of 2 steps"):
        data.read(1, 0, 3)
    verdict = verify_dataset(tmp_path / "own")
    assert (verdict.wrong, verdict.unknown) == ([], [])
    whole, ragged = (tmp_path / f"own/shard-0000{i}/meta.json" for i in (1, 0))
    assert '"lengths"' not in whole.read_text()
    damaged = ragged.read_text().replace('"lengths": [', '"lengths": [7, ')
    assert damaged != ragged.read_text()
    ragged.write_text(damaged)
    with pytest.raises(UserError, match=r"meta.json"):
        HistoryDataset(tmp_path / "own")


def test_packed_histories_of_different_lengths_are_trained_on_and_resumed_bit_for_bit(tmp_path):
    layout = CORRIDOR | {"num_steps": 30}
    with fastad.histories.create(tmp_path / "own", **layout) as writer:
        for task, length in ((0, 30), (1, 7), (0, 12), (1, 1)):
            writer.append(task=task, last=True, **steps(length))
    settings: dict[str, Any] = {
        "data": tmp_path / "own", "width": 16, "num_layers": 1, "context": 6, "updates": 6,
        "batch_size": 2, "positions": "rope", "dropout": 0.1, "eval_every": 0, "log_every": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"window=30 is longer than .* or --pack"):
        fastad.train(out=tmp_path / "refused", window=30, **settings)
    whole = fastad.train(out=tmp_path / "whole", pack=True, **settings)

    def stop(done, total, **metrics):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastad.train(out=tmp_path / "halves", pack=True, progress=stop, **settings)
    resumed = fastad.train(
        out=tmp_path / "halves", pack=True, resume=True, activation_checkpointing=True, **settings
    )
    pairs = zip(whole.model().parameters(), resumed.model().parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert [r["loss"] for r in whole.metrics] == [r["loss"] for r in resumed.metrics]


def test_what_is_written_is_trained_on_and_rollouts_say_why_they_cannot_be(tmp_path, caplog):
    with fastad.histories.create(tmp_path / "own", **CORRIDOR) as writer:
        for task in (0, 1, 0, 1):
            writer.append(task=task, **steps())
    caplog.set_level("INFO", "fastad")
    sizes = {"updates": 1, "width": 8, "num_layers": 1, "window": 6}
    run = fastad.train(data=tmp_path / "own", out=tmp_path / "run", **sizes)
    assert "no learning curve: env='corridor' is a label" in caplog.text
    with pytest.raises(UserError, match="env='corridor' is a label of histories from elsewhere"):
        fastad.rollout(run)


def test_of_an_environment_that_is_here_nothing_needs_to_be_told_twice(tmp_path):
    """Rollouts act in it, beside chance; the source, a label, cannot be run again."""
    goals = [[0, 0], [0, 1], [0, 2], [2, 2]]
    settings = {
        "env": "dark-room", "env_options": {"size": 3, "episode_length": 3}, "tasks": goals,
        "num_test": 1, "num_histories": 3, "num_steps": 6, "policies": (),
    }  # fmt: skip
    walk = {
        "observation": [[1, 1], [1, 1], [1, 1]] * 2, "action": np.zeros(6, int),
        "reward": np.zeros(6), "terminated": np.zeros(6, bool),
        "truncated": np.arange(6) % 3 == 2,
    }  # fmt: skip
    with fastad.histories.create(tmp_path / "own", **settings) as writer:
        for task in range(3):
            writer.append(task=task, **walk)
    assert writer.info.fixed_length
    assert writer.info.observation_space == spaces.MultiDiscrete([3, 3])
    sizes = {"updates": 1, "width": 8, "num_layers": 1, "window": 6, "target": "sampled"}
    run = fastad.train(data=tmp_path / "own", out=tmp_path / "run", **sizes)
    result = fastad.rollout(run, episodes=2)
    assert list(result.baselines) == ["random"]


def test_dictionaries_are_given_step_by_step(tmp_path):
    space = spaces.Dict({"at": spaces.Discrete(3), "sees": spaces.Box(0, 1, (2,))})
    seen = [{"at": at, "sees": np.array([0.25, 0.5], np.float32)} for at in (0, 1, 2)] * 2
    changes = {"observation_space": space, "num_histories": 1}
    with fastad.histories.create(tmp_path / "own", **CORRIDOR | changes) as writer:
        with pytest.raises(UserError, match="'sees' has shape \\(1,\\), its space \\(2,\\)"):
            writer.append(task=0, **steps(observation=[{"at": 0, "sees": np.zeros(1)}] * 6))
        writer.append(task=0, **steps(observation=seen))
    stored = HistoryDataset(tmp_path / "own").read(0, 0, 6)["observation"]
    assert stored[:, 0].tolist() == [0, 1, 2, 0, 1, 2]  # a byte, then two floats
    assert stored[0, 1:].view(np.float32).tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": np.full(6, 4)}, "observation of a block lies in .4, 4.*Discrete.4."),
        ({"action": np.full(6, 2)}, "actions are 0 to 1"),
        ({"action": np.zeros((6, 1), int)}, r"action of a block has shape \(1, 6, 1\)"),
        ({"reward": np.full(6, np.nan)}, "reward of a block holds values that are not finite"),
        ({"policy": np.full((6, 2), 0.4)}, "probabilities must not be negative and must sum to 1"),
        ({"policy": None}, "block lacks policy"),
        ({"terminated": np.zeros(6, int)}, "terminated of a block is int64.*give true or false"),
        ({"terminated": np.zeros(6, bool)}, "begins at step 0 lasts 6 steps and goes on; no epi"),
        ({"value": np.zeros(6)}, "unknown column 'value'"),
        ({"task": 4}, "task=4 is no row of the tasks, 0 to 3"),
        ({"task": 0.5}, "task=0.5 is no row of the tasks"),
        (steps(7), r"7 steps behind 0 exceed num_steps=6; append the first 6"),
        (steps(0), "there are no steps; append at least one"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_next_call_puts_it_right(writer, changes, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        writer.append(**{"task": 0} | steps() | changes)
    assert writer.num_histories == 0
    writer.append(task=0, **steps())
    assert writer.num_histories == 1


def test_a_refusal_names_history_and_step(tmp_path):
    with fastad.histories.create(
        tmp_path / "own", **CORRIDOR | {"num_steps": 9, "num_histories": 2}
    ) as writer:
        writer.append(task=0, **steps(9))
        writer.append(task=1, **part(steps(), 0, 5))
        with pytest.raises(UserError, match="history 1 from step 5 on: action of a block lies in"):
            writer.append(task=1, **steps(1, action=[9]))
        with pytest.raises(UserError, match="task=2, and it has 5 of num_steps=9 steps of task 1"):
            writer.append(task=2, **steps(1))
        # Two steps of the episode are in the part before.
        with pytest.raises(UserError, match="begins at step 3 lasts 4 steps and goes on"):
            writer.append(task=1, **steps(2))
        writer.append(task=1, **part(steps(), 2, 6))


def test_episodes_of_fixed_length_have_exactly_that(tmp_path):
    fixed = CORRIDOR | {"fixed_length": True, "num_histories": 1}
    with fastad.histories.create(tmp_path / "own", **fixed) as writer:
        ends = np.array([False, True, False, False, False, True])
        with pytest.raises(UserError, match="step 0 lasts 2 steps; every episode must end after"):
            writer.append(task=0, **steps(terminated=ends))
        with pytest.raises(UserError, match="step 0 lasts 3 steps and goes on; every episode"):
            writer.append(task=0, **part(steps(terminated=np.zeros(6, bool)), 0, 3))
        writer.append(task=0, **steps())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": None}, "tasks and num_tasks: give one of the two"),
        ({"num_tasks": None, "tasks": [[1], [1], [2]]}, r"the row \[1\] more than once"),
        ({"num_tasks": None, "tasks": [1, 2]}, r"tasks has shape \(2,\)"),
        ({"num_tasks": None, "tasks": [[np.nan]]}, "not finite"),
        ({"num_test": 3}, "leave 0 of 4 tasks to train on"),
        ({"episode_length": None}, "episode_length is needed: env='corridor' is none"),
        ({"action_space": spaces.Box(-1, 1, (2, 2))}, "action_space=.* is not supported"),
        ({"policies": ("polcy",)}, "policies=.*must be some of policy, expert_policy"),
        ({"num_histories": 0}, "num_histories=0 must be at least 1"),
        ({"env": "dark-rooom:"}, "dark-rooom"),
        ({"env": "dark-room"}, "observation_space=.* is not that of env='dark-room'"),
    ],
)
def test_a_dataset_that_cannot_be_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        fastad.histories.create(tmp_path / "own", **CORRIDOR | changes)
    assert not (tmp_path / "own").exists()


def test_tasks_that_the_environment_does_not_have_are_refused(tmp_path):
    with pytest.raises(UserError, match="goal"):
        fastad.histories.create(
            tmp_path / "own", env="dark-room", tasks=[[0, 0], [9, 9]], num_histories=1, num_steps=20
        )


def test_nothing_is_left_of_a_dataset_that_is_not_finished(tmp_path):
    with (
        pytest.raises(UserError, match="num_histories=4, and 1 are complete; append the other 3"),
        fastad.histories.create(tmp_path / "own", **CORRIDOR) as writer,
    ):
        writer.append(task=0, **steps())
    with (
        pytest.raises(UserError, match="task=9 is no row"),
        fastad.histories.create(tmp_path / "own", **CORRIDOR) as writer,
    ):
        writer.append(task=9, **steps())
    with pytest.raises(UserError):
        HistoryDataset(tmp_path / "own")


def test_a_killed_writer_leaves_what_no_reader_takes_for_complete(tmp_path, monkeypatch):
    monkeypatch.setattr("fastad.histories.own.SHARD_BYTES", 150)  # two of 72
    writer = fastad.histories.create(tmp_path / "own", **CORRIDOR)
    writer.__enter__()
    writer.append(task=0, **steps())
    with pytest.raises(UserError, match="no step is committed yet"):
        HistoryDataset(tmp_path / "own")
    writer.append(task=0, **steps())
    assert not HistoryDataset(tmp_path / "own").complete
    with pytest.raises(UserError, match=r"not complete .*; go on with it by .*resume=True"):
        fastad.train(data=tmp_path / "own", out=tmp_path / "run", updates=1)
    with pytest.raises(UserError, match="num_histories=4"):
        writer.__exit__(None, None, None)


def test_a_stopped_writer_goes_on_behind_the_shards_that_are_full(tmp_path, monkeypatch):
    monkeypatch.setattr("fastad.histories.own.SHARD_BYTES", 150)  # two of 72
    settings = CORRIDOR | {"num_histories": 5}  # shards of one, two and two
    lived = [(task, steps(reward=np.full(6, 10.0 * task))) for task in (1, 0, 1, 1, 0)]
    with fastad.histories.create(tmp_path / "whole", **settings) as writer:
        for task, history in lived:
            writer.append(task=task, **history)
    killed = fastad.histories.create(tmp_path / "part", **settings, resume=True)
    killed.__enter__()
    for task, history in lived[:4]:
        killed.append(task=task, **history)
    killed._open.close()  # as by a kill: nothing is discarded, and locks are free
    with (
        pytest.raises(UserError, match=r"append the other 2, .* is left to be resumed"),
        fastad.histories.create(tmp_path / "part", **settings, resume=True) as writer,
    ):
        pass
    with (
        pytest.raises(RuntimeError, match="by mistake"),
        fastad.histories.create(tmp_path / "part", **settings, resume=True) as writer,
    ):
        raise RuntimeError("by mistake")
    with fastad.histories.create(tmp_path / "part", **settings, resume=True) as writer:
        assert writer.num_histories == 3  # the fourth was of a shard that was not full
        for task, history in lived[writer.num_histories :]:
            writer.append(task=task, **history)
    whole, part = (HistoryDataset(tmp_path / name) for name in ("whole", "part"))
    assert list(part.learner_ids) == list(whole.learner_ids) == [0, 0, 1, 2, 1]
    assert part.task_ids.tolist() == [1, 0, 1, 1, 0]
    assert verify_dataset(part.path).wrong == []
    for history in range(5):
        for name, column in whole.read(history, 0, 6).items():
            np.testing.assert_array_equal(part.read(history, 0, 6)[name], column)
    other = fastad.histories.create(
        tmp_path / "part", **settings | {"source": "another"}, resume=True
    )
    with pytest.raises(UserError, match=r"changed settings.*source"):
        other.__enter__()


def test_a_dataset_that_is_there_is_replaced_only_if_asked(tmp_path):
    one = CORRIDOR | {"num_histories": 1}
    for overwrite in (False, True):
        with fastad.histories.create(tmp_path / "own", **one, overwrite=overwrite) as writer:
            writer.append(task=0, **steps())
    with (
        pytest.raises(UserError, match="holds a dataset"),
        fastad.histories.create(tmp_path / "own", **one),
    ):
        pass
    assert HistoryDataset(tmp_path / "own").complete


def test_gymnasium_environments_are_told_by_name(tmp_path):
    env = gymnasium.make("CartPole-v1")
    settings = {
        "env": "gym:CartPole-v1", "env_options": {"tasks": "seeds"}, "tasks": [[3], [4]],
        "num_histories": 2, "num_steps": 30, "policies": (), "num_test": 1, "source": "push right",
    }  # fmt: skip
    with fastad.histories.create(tmp_path / "own", **settings) as writer:
        seen, _ = env.reset(seed=3)
        for _ in range(60):
            after, reward, terminated, truncated, _ = env.step(1)
            writer.append(
                task=0, observation=[seen], action=[1], reward=[reward],
                terminated=[terminated], truncated=[truncated],
            )  # fmt: skip
            seen = env.reset(seed=3)[0] if terminated or truncated else after
    assert HistoryDataset(tmp_path / "own").num_episodes(0) == 3
