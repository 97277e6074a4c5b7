"""The decision transformer: returns to go of stored episodes, and what it is asked for."""

import pytest
import torch

import fastad
from fastad.base.errors import UserError
from fastad.cli.flags import parse
from fastad.envs.grid import GridEnv
from fastad.histories.reader import HistoryDataset, load_info
from fastad.methods.decision_transformer import DecisionTransformer
from fastad.methods.windows import WindowSampler
from fastad.model.config import ModelConfig
from fastad.training.checkpoint import load_model

SIZES = {"updates": 4, "batch_size": 6, "window": 24, "context": 24, "width": 16, "log_every": 1}


def make_method(path, **changes):
    arguments = {"num_steps": 6, "batch_size": 2, "seed": 0} | changes
    return DecisionTransformer(WindowSampler(HistoryDataset(path), **arguments), "sampled")


def test_a_step_is_shown_what_its_whole_stored_episode_gives_from_it_on(tmp_path, make_dataset):
    # Rewards 0, 1, 2, ..., episodes of four steps; the window cuts the second after two.
    make_dataset(tmp_path, num_histories=2, task_ids=[0, 5])
    steps = make_method(tmp_path).batch(0).steps
    assert steps.return_to_go.tolist() == [[6, 6, 5, 3, 4 + 5 + 6 + 7, 5 + 6 + 7]] * 2
    assert steps.return_to_go.dtype == torch.float32


def test_episodes_that_were_left_out_give_nothing(tmp_path, make_dataset):
    make_dataset(tmp_path, episode_lengths=[3, 1, 5, 3], num_histories=2, task_ids=[0, 5])
    steps = make_method(tmp_path, num_steps=7, every_kth_episode=2).batch(0).steps
    # Episodes 0, of rewards 0 to 2, and 2, of 4 to 8, cut after four of its five steps.
    assert steps.return_to_go.tolist() == [[3, 3, 2, 30, 26, 21, 15]] * 2


def test_what_is_to_go_belongs_to_the_steps_shown_also_where_windows_begin_anywhere(
    tmp_path, make_dataset
):
    make_dataset(tmp_path)
    steps = make_method(tmp_path, start="anywhere", num_steps=8, batch_size=32).batch(3).steps
    begins_at = steps.observation[:, 0, 1]
    assert set(begins_at.tolist()) == {0, 4}
    history = steps.observation[:, 0, 0]
    # Four rewards of 1000 h + t, from t = 0 or 4.
    assert torch.equal(steps.return_to_go[:, 0].long(), 4000 * history + 4 * begins_at + 6)


def test_a_model_is_built_for_the_largest_of_them(tmp_path, make_dataset):
    make_dataset(tmp_path, num_histories=2, task_ids=[0, 5])
    model = make_method(tmp_path).build_model(ModelConfig(context=6))
    assert model.return_scale == 22.0


def test_two_ranks_are_shown_what_one_is(tmp_path, make_dataset):
    make_dataset(tmp_path)
    whole = make_method(tmp_path, batch_size=4).batch(5).steps
    parts = [make_method(tmp_path, rank=r, world_size=2).batch(5).steps for r in (0, 1)]
    joined = torch.cat([part.return_to_go for part in parts])
    assert torch.equal(joined, whole.return_to_go)


def test_its_defaults_hold_for_what_nobody_set():
    settings = parse("train", ["--method", "decision-transformer"]).settings
    assert (settings.start, settings.target) == ("anywhere", "sampled")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    room = {"size": 3, "episode_length": 4}
    return fastad.collect(
        out=tmp_path_factory.mktemp("data") / "room", env_options=room, num_histories=24,
        num_episodes=12, num_test_tasks=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return fastad.train(data=data, out=out, method="decision-transformer", **SIZES)


def test_a_run_that_was_stopped_ends_with_the_same_bits(data, run, tmp_path):
    def stop(done, total, **metrics):
        if done == 2:
            raise KeyboardInterrupt

    again = {"data": data, "out": tmp_path / "it", "method": "decision-transformer", **SIZES}
    with pytest.raises(KeyboardInterrupt):
        fastad.train(progress=stop, **again)
    broken = fastad.train(resume=True, **again)
    ends = [r.checkpoints[-1] / "model.safetensors" for r in (broken, run)]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert load_model(run.path).return_scale == load_model(broken.path).return_scale > 1


def test_results_say_that_it_was_told_the_optimum_or_asked_for_something_else(run, tmp_path):
    kept = tmp_path / "kept"
    result = fastad.rollout(run, episodes=2, rollouts_per_task=2)
    assert result.label == "decision transformer, told the optimum"
    assert result.method == "decision-transformer"
    other = fastad.rollout(
        run, episodes=2, rollouts_per_task=2, target_return=1.5, save_histories=kept
    )
    assert other.label == "decision transformer, asked for a return of 1.5"
    assert other.asked["target_return"] == 1.5
    info = load_info(kept)
    assert info.source == "decision-transformer"
    assert info.source_knows.endswith("; asked for a return of 1.5")
    assert info.source_kwargs["target_return"] == 1.5


def test_nobody_else_can_be_asked_for_a_return(data, tmp_path):
    plain = fastad.train(data=data, out=tmp_path / "plain", **SIZES)
    with pytest.raises(UserError, match="leave --target-return out"):
        fastad.rollout(plain, target_return=1.0)


def test_where_nobody_knows_the_optimum_there_is_no_learning_curve_unless_it_is_asked_for(
    data, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="fastad")
    monkeypatch.setattr(GridEnv, "optimal_return", lambda self: None)
    again = {"data": data, "method": "decision-transformer", **SIZES}
    run = fastad.train(out=tmp_path / "run", **again)
    assert not [record for record in run.metrics if "eval_last" in record]
    assert "no learning curve: target_return is needed" in caplog.text
    with pytest.raises(UserError, match="target_return is needed"):
        fastad.train(out=tmp_path / "other", eval_every=2, **again)
    assert not (tmp_path / "other").exists()
