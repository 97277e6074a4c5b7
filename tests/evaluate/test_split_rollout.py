"""A rollout by several processes is the rollout by one, bit for bit."""

import json
import multiprocessing

import numpy as np
import pytest
import torch
from fastad_kernels import native

from fastad.base.errors import UserError
from fastad.cli import main
from fastad.evaluate.measure import measure
from fastad.evaluate.prompts import load_prompt
from fastad.evaluate.task_set import try_model
from fastad.model.config import ModelConfig

# Of a result, what depends on when and where it was reckoned.
OF_THE_MOMENT = {"versions", "steps_per_second", "steps_per_second_cached"}
needs_cpp = pytest.mark.skipif(
    native.why_unavailable() is not None, reason="PyTorch's own products depend on the rows"
)


def told(trial):
    return {k: v for k, v in measure(trial).to_json().items() if k not in OF_THE_MOMENT}


@needs_cpp
def test_returns_actions_and_figures_are_those_of_one_process(rooms, model_on):
    model = model_on(rooms)
    blocks = {1: [], 2: []}
    prompt = load_prompt(None, slice(0, 2), rooms, torch.device("cpu"))
    trials = {
        workers: try_model(
            model, rooms, num_episodes=5, workers=workers, prompt=prompt,
            on_block=blocks[workers].append,
        )
        for workers in blocks
    }  # fmt: skip
    one, two = trials.values()
    assert torch.equal(one.result.returns, two.result.returns)
    assert torch.equal(one.actions, two.actions)
    assert len(one.actions.unique(dim=0)) > 3  # rows that were exchanged would show
    assert told(one) == told(two)
    for ours, theirs in zip(blocks[2], blocks[1], strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_more_workers_than_rollouts_and_a_gru_do_as_well(arms, model_on):
    model = model_on(arms, trunk="gru", context=ModelConfig().context)
    one, many = (try_model(model, arms, num_episodes=6, workers=w) for w in (1, 9))
    assert torch.equal(one.actions, many.actions)


def test_rewards_that_are_exchanged_between_tasks_are_not_split(rooms, model_on):
    with pytest.raises(UserError, match=r"workers=2 cannot exchange rewards"):
        try_model(model_on(rooms), rooms, num_episodes=1, workers=2, control="shuffled-rewards")


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["a worker", "us"])
def test_when_one_dies_or_all_are_stopped_no_worker_is_left(rooms, model_on, stop):
    at_work = []

    def interfere(block):
        at_work.extend(multiprocessing.active_children())
        if stop == "us":
            raise KeyboardInterrupt
        at_work[0].kill()

    expected = KeyboardInterrupt if stop == "us" else UserError
    with pytest.raises(expected, match=None if stop == "us" else "a worker process died"):
        try_model(model_on(rooms), rooms, num_episodes=10_000, workers=2, on_block=interfere)
    assert len(at_work) >= 2
    assert not any(process.is_alive() for process in at_work)


@pytest.mark.slow
def test_the_command_s_workers_change_no_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    room = ["--env-options", "size=3", "episode_length=4"]
    few = ["--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
    assert main(["collect", "data", *room, *few]) == 0
    small = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "2"]
    assert main(["train", "data", "--out", "run", *small]) == 0
    asked = ["--episodes", "3", "--rollouts-per-task", "4"]
    figures = []
    for workers in ("1", "2"):
        file = tmp_path / f"{workers}.json"
        assert main(["rollout", "run", *asked, "--workers", workers, "--json", str(file)]) == 0
        figures.append(json.loads(file.read_text()))
    one, two = ({k: v for k, v in each.items() if k not in OF_THE_MOMENT} for each in figures)
    assert one.keys() == two.keys()
    if native.why_unavailable() is None:
        assert one == two
    else:
        np.testing.assert_allclose(one["returns"], two["returns"], rtol=1e-4)
    assert main(["rollout", "run", "--workers", "0"]) == 2
    assert "workers=0 must be at least 1" in capsys.readouterr().err
