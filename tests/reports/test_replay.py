import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom, DarkRoomPermuted
from fastad.envs.registry import ENVS, make_family
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.reports.replay import record, record_prepared
from fastad.reports.shown_steps import shown_steps
from fastad.rollouts.prompt import Prompt

SHORT = {
    "dark-room": {"size": 5, "episode_length": 6},
    "dark-room-hard": {"size": 5, "episode_length": 6, "terminate_on_goal": True},
    "dark-room-permuted": {"size": 3, "episode_length": 6},
    "dark-key-to-door": {"size": 3, "episode_length": 6},
    "watermaze": {"episode_length": 4, "height": 8, "width": 8},
    "point-mass": {"episode_length": 4},
    "gym:CartPole-v1": {"tasks": {"length": [0.3, 0.9]}, "episode_length": 12},
}
KINDS = {"watermaze": "disc", "point-mass": "plane", "gym:CartPole-v1": "steps"}


@pytest.mark.parametrize("name", [*ENVS, "gym:CartPole-v1"])
def test_every_environment_is_replayed_as_it_was_rolled_out(name, prepared_on):
    prepared = prepared_on(name, episodes=3, **SHORT.get(name, {"num_arms": 4}))
    replay = record_prepared(prepared, rollouts=2)
    returns = prepared.act().result.returns
    told = json.loads(json.dumps(replay.to_json(), allow_nan=False))

    kind = "arms" if "bandit" in name else KINDS.get(name, "grid")
    assert told["scene"]["kind"] == kind
    assert len(told["rollouts"]) == 2
    for row, rollout in zip((0, 2), told["rollouts"], strict=True):  # two rollouts a task
        assert np.allclose(rollout["returns"], returns[row], atol=1e-3)
        starts, reward = rollout["episode_start"], rollout["reward"]
        bounds = [*starts, len(reward)]
        sums = [sum(reward[a:b]) for a, b in pairwise(bounds)]
        assert len(starts) == 3
        assert np.allclose(sums, rollout["returns"], atol=2e-3)
        assert len(rollout["action"]) == len(reward)
        assert (rollout["x"] is not None) == (kind in ("grid", "disc", "plane"))
        assert (rollout["heading"] is not None) == (kind == "disc")
        if kind == "grid":
            assert (rollout["x"][0], rollout["y"][0]) == (replay.scene.columns // 2,) * 2 or (
                name == "dark-key-to-door"
            )
        if name == "point-mass":
            assert told["actions"] is None
            assert np.shape(rollout["mean"]) == np.shape(rollout["action"])
            assert min(min(row) for row in rollout["deviation"]) > 0
        else:
            assert np.allclose(np.sum(rollout["probabilities"], axis=1), 1, atol=1e-3)
            assert len(told["actions"]) == len(rollout["probabilities"][0])
        assert (rollout["means"] is not None) == (kind == "arms")
        assert len(rollout["attention"]["query"]) == len(reward)


@pytest.mark.parametrize("layout", ["fused", "interleaved", "unordered"])
@pytest.mark.parametrize("control", ["none", "no-reward", "one-episode", "wiped-context", "prompt"])
def test_what_was_shown_gives_the_policies_that_were_drawn_from(control, layout, prepared_on):
    prepared = prepared_on(
        "dark-room", episodes=3, model={"layout": layout}, size=5, episode_length=6,
        acting={} if control == "prompt" else {"control": control},
    )  # fmt: skip
    blocks = []
    if control == "prompt":
        prepared.act(on_block=blocks.append)
        lived = Transition(
            *(torch.cat(field, dim=1).clone() for field in zip(*blocks, strict=True))
        )
        lengths = torch.tensor([18, 12, 18, 12, 12, 18])
        prepared = replace(prepared, prompt=Prompt(lived, lengths, 2, "episodes"))
        blocks.clear()
    rows = [1, 4]
    prepared.act(on_block=lambda block: blocks.append(Transition(*(f[rows] for f in block))))
    lived = Transition(*(torch.cat(field, dim=1).clone() for field in zip(*blocks, strict=True)))
    shown = shown_steps(prepared, lived, rows)
    with torch.no_grad():
        policy = prepared.model(shown).policy.softmax(dim=-1)
    assert torch.allclose(policy[:, -18:], lived.policy, atol=1e-5)


def test_steps_before_the_rollout_are_those_of_the_prompt(prepared_on):
    prepared = prepared_on("dark-room", episodes=2, size=5, episode_length=6)
    blocks = []
    prepared.act(on_block=blocks.append)
    lived = Transition(*(torch.cat(field, dim=1).clone() for field in zip(*blocks, strict=True)))
    prompt = Prompt(lived, torch.full((6,), 12), 2, "episodes 0:2 of themselves")
    replay = record_prepared(replace(prepared, prompt=prompt), rollouts=1)
    attention = replay.rollouts[0].attention
    assert replay.prompt == "episodes 0:2 of themselves"
    assert attention.query.tolist() == list(range(12))
    assert (attention.weights[0] > 0).all()  # the window is full at once


def test_a_gru_is_replayed_without_attention(prepared_on):
    prepared = prepared_on("dark-room", size=5, episode_length=6)
    old = prepared.model
    gru = SequenceModel(
        ModelConfig(trunk="gru", width=16), old.observation_space, old.action_space, 6
    ).eval()
    told = record_prepared(replace(prepared, model=gru), rollouts=1).to_json()
    assert told["layers"] == 0
    assert told["rollouts"][0]["attention"] is None


def test_tasks_are_told_in_words():
    assert DarkRoom().words(torch.tensor([3, 4])) == "goal (3, 4)"
    # Permutation 1 exchanges the last two moves.
    told = "goal (3, 4), permutation 1 (0: stay, 1: up, 2: right, 3: left, 4: down)"
    assert DarkRoomPermuted().words(torch.tensor([3, 4, 1])) == told
    bandit = make_family("bernoulli-bandit", num_arms=3)
    assert bandit.words(torch.tensor([0.25, 0.75, 0.5])) == "3 arms, the best is 1, with mean 0.75"
    key = make_family("dark-key-to-door").marks(torch.tensor([1, 2, 3, 4]))
    assert [(mark.name, mark.x, mark.y) for mark in key] == [("key", 1, 2), ("door", 3, 4)]


def test_stored_frames_do_not_tell_where_one_is(prepared_on):
    prepared = prepared_on("watermaze", store="frames", **SHORT["watermaze"])
    told = record_prepared(prepared, rollouts=1, attention=False).to_json()
    assert told["scene"] == {"kind": "steps"}
    assert told["rollouts"][0]["x"] is None


def test_a_replay_of_no_rollout_is_refused(tmp_path):
    with pytest.raises(UserError, match="rollouts=0 must be at least 1"):
        record(tmp_path, rollouts=0)
