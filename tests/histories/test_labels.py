"""Labels: what an expert, or the same learner later, would do in the states of a history."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastad.api.gather import how_to_finish
from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.histories.jobs import collect, prepare
from fastad.histories.labels import label_words
from fastad.histories.reader import HistoryDataset
from fastad.histories.verify import verify_dataset

ROOM: dict[str, Any] = {
    "env": "dark-room",
    "env_kwargs": {"size": 5, "episode_length": 6},
    "source": "q-learning",
    "num_histories": 12,
    "num_episodes": 6,
    "num_train": 12,
    "num_test": 4,
    "shards": 2,
}
KEY_TO_DOOR = ROOM | {
    "env": "dark-key-to-door",
    "env_kwargs": {"size": 3, "episode_length": 8, "start": "centre"},
}
BANDIT = ROOM | {"env": "bernoulli-bandit", "env_kwargs": {}, "num_episodes": 40}


def column(data: HistoryDataset, name: str) -> np.ndarray:
    """(N, T, ...) of all histories."""
    rows = [data.read(history, 0, data.info.num_steps)[name] for history in range(12)]
    return np.stack(rows)


def collected(path: Path, settings: dict[str, Any], **changes: Any) -> HistoryDataset:
    collect(path, **settings | changes)
    return HistoryDataset(path)


def test_final_labels_are_what_the_table_says_after_the_last_step(tmp_path: Path) -> None:
    options = {"replay_sweeps": 0, "learning_rate": 0.5, "temperature": 0.05, "initial_value": 0.3}
    data = collected(tmp_path, ROOM, source_kwargs=options, labels=["final"], action_noise=0.2)
    for history in range(3):
        steps = data.read(history, 0, 36)
        q = np.full((5, 5, 5), 0.3)
        for t in range(36):
            x, y = steps["observation"][t]
            a = steps["action"][t]
            # Where the step ended, by the rules: the next observation may be a new episode's.
            dx, dy = [(0, 0), (0, -1), (1, 0), (0, 1), (-1, 0)][a]
            after = (min(max(int(x) + dx, 0), 4), min(max(int(y) + dy, 0), 4))
            target = steps["reward"][t] + 0.9 * q[after].max()
            q[x, y, a] += 0.5 * (target - q[x, y, a])
        weights = np.exp((q - q.max(axis=-1, keepdims=True)) / 0.05)
        expected = (weights / weights.sum(axis=-1, keepdims=True))[tuple(steps["observation"].T)]
        np.testing.assert_allclose(steps["final_policy"], expected, atol=1e-3)  # float16
        assert not np.allclose(steps["policy"], expected, atol=0.05)


@pytest.mark.parametrize(
    "source",
    ["q-learning", "actor-critic", "ucbvi", "frontier", "a2c", "a3c", "dqn", "expert", "noise"],
)
def test_look_ahead_labels_are_what_the_learner_does_that_many_episodes_later(
    tmp_path: Path, source: str
) -> None:
    data = collected(tmp_path, ROOM, source=source, labels=["final"], look_ahead=2)
    # Every episode begins in the same cell, before anything is learned in it.
    policy, later = (
        column(data, name)[:, ::6].astype(float) for name in ("policy", "final_policy")
    )
    np.testing.assert_allclose(later[:, :4], policy[:, 2:], atol=1e-3)
    if source != "expert":
        assert not np.allclose(policy[:, :4], policy[:, 2:], atol=1e-3)
    np.testing.assert_array_equal(later[:, 4], later[:, 5])  # both look to the end


@pytest.mark.parametrize("source", ["q-learning", "actor-critic", "ucbvi", "frontier", "a2c"])
def test_final_labels_are_what_a_longer_history_does_next(tmp_path: Path, source: str) -> None:
    data = collected(tmp_path / "a", ROOM, source=source, labels=["final"])
    longer = collected(tmp_path / "b", ROOM, source=source, num_episodes=7)
    expected = column(longer, "policy")[:, 36:37].astype(float)
    labels = column(data, "final_policy")[:, ::6].astype(float)
    np.testing.assert_allclose(labels, expected.repeat(6, axis=1), atol=1e-3)


@pytest.mark.parametrize("source", ["ucb1", "epsilon-greedy", "thompson", "random"])
def test_bandit_rules_look_ahead_by_pulls(tmp_path: Path, source: str) -> None:
    data = collected(tmp_path, BANDIT, source=source, labels=["final"], look_ahead=7)
    policy, later = column(data, "policy"), column(data, "final_policy")
    np.testing.assert_array_equal(later[:, :33], policy[:, 7:])


@pytest.mark.parametrize("source", ["actor-critic", "frontier", "a3c"])
def test_what_a_learner_would_do_depends_on_the_phase_of_the_episode(
    tmp_path: Path, source: str
) -> None:
    """Learners that change at the end of an episode alone, or in places that it tells apart."""
    kwargs = KEY_TO_DOOR["env_kwargs"] | {"episode_length": 20}
    data = collected(
        tmp_path, KEY_TO_DOOR, env_kwargs=kwargs, source=source, labels=["final"], look_ahead=1
    )
    shown = 0
    for history in range(12):
        steps = data.read(history, 0, 120)
        paid = (steps["reward"] != 0).reshape(6, 20)
        phase = paid.cumsum(axis=1) - paid
        for episode in range(5):
            first, after = 20 * episode, 20 * (episode + 1)
            # What is found in the course of the later episode is not known at its beginning.
            known = 1 if source == "frontier" else 20
            for t in range(20):
                for u in range(known):
                    here, there = first + t, after + u
                    same = (steps["observation"][here] == steps["observation"][there]).all()
                    if same and phase[episode, t] == phase[episode + 1, u]:
                        np.testing.assert_allclose(
                            steps["final_policy"][here], steps["policy"][there], atol=1e-3
                        )
                        shown += phase[episode, t] > 0 or source == "frontier"
    assert shown > 20


def test_expert_labels_are_the_expert_s_whatever_was_done(tmp_path: Path) -> None:
    data = collected(
        tmp_path, KEY_TO_DOOR, source="expert", action_noise=0.5, labels=["expert", "final"]
    )
    policy, expert = column(data, "policy"), column(data, "expert_policy")
    np.testing.assert_array_equal(expert, policy)
    # What never learns ends as it began; asked again, it must be told who had the key.
    np.testing.assert_array_equal(column(data, "final_policy"), policy)
    wanted = np.take_along_axis(expert, column(data, "action")[..., None], axis=-1)
    assert (wanted == 0).any()
    data = collected(tmp_path / "q", ROOM, labels=["expert"])
    goal = data.tasks[data.task_ids][:, None]
    labels, there = column(data, "expert_policy"), column(data, "observation") == goal
    stays = labels[..., 0] > 0  # at a wall, so does whoever walks into it
    np.testing.assert_array_equal(stays, there.all(axis=-1))


@pytest.mark.parametrize("settings", [ROOM, BANDIT | {"source": "thompson"}])
def test_what_is_acted_by_and_done_is_the_same_with_labels_and_without(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    without = collected(tmp_path / "a", settings, action_noise=0.1)
    with_labels = collected(
        tmp_path / "b", settings, action_noise=0.1, labels=["final", "expert"], look_ahead=3
    )
    assert with_labels.info.policies == ["policy", "expert_policy", "final_policy"]
    assert without.info.policies == ["policy"]
    for file in sorted((tmp_path / "a").rglob("*.npy")):
        twin = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == twin.read_bytes(), file.name
    assert verify_dataset(tmp_path / "b").wrong == []


def test_labels_do_not_depend_on_how_often_it_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"labels": ["expert", "final"], "look_ahead": 1, "source": "a2c"}
    collect(tmp_path / "a", **ROOM | labels)
    monkeypatch.setattr("fastad.histories.jobs.STEPS_PER_COMMIT", 80)  # of six, two episodes
    collect(tmp_path / "b", **ROOM | labels)
    for file in sorted((tmp_path / "a").rglob("*.npy")):
        twin = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == twin.read_bytes(), file.name


def test_expert_labels_need_an_expert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastad.envs.grid.GridEnv.expert", BatchedEnv.expert)
    with pytest.raises(UserError, match="env 'dark-room' has no expert; leave out expert"):
        collect(tmp_path / "new", **ROOM, labels=["expert"])
    assert not (tmp_path / "new").exists()


def test_the_dataset_says_what_its_labels_are(tmp_path: Path) -> None:
    with prepare(tmp_path, **ROOM, labels=["expert", "final"], look_ahead=3) as info:
        pass
    assert label_words(info) == [
        "expert labels: the environment's expert; privileged: told the task",
        "look-ahead labels: the same learner's policy 3 episodes later",
    ]
    assert "--labels expert final --look-ahead 3" in how_to_finish(tmp_path, info)
    with pytest.raises(UserError) as caught:
        collect(tmp_path, **ROOM, labels=["final"], resume=True)
    assert "labels" in str(caught.value)
    assert "look_ahead: 3 -> None" in str(caught.value)
