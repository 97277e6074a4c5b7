"""Every run has a learning curve on validation tasks, at small cost and no change of a bit."""

import pytest

import fastad
from fastad.base.errors import UserError
from fastad.training.settings import TrainSettings

MODEL = {"width": 16, "num_layers": 1, "context": 12, "dropout": 0.2, "batch_size": 4}
ROOM = {"env_options": {"size": 3, "episode_length": 4}, "num_histories": 24, "num_episodes": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return fastad.collect(out=tmp_path_factory.mktemp("data"), num_test_tasks=2, **ROOM)


def curve(run):
    return [record["step"] for record in run.metrics if "eval_last" in record]


def test_a_run_is_looked_at_ten_times_and_not_more_often_than_every_100_updates():
    every = {n: TrainSettings(updates=n).curve_every for n in (1, 700, 1001, 1300, 50_000)}
    assert every == {1: 100, 700: 100, 1001: 101, 1300: 130, 50_000: 5000}
    assert TrainSettings(eval_every=0).curve_every == 0
    assert TrainSettings(eval_every=7).curve_every == 7


def test_looking_changes_no_bit_of_the_weights(data, tmp_path):
    looked, alone = (
        fastad.train(data=data, out=tmp_path / name, updates=230, **MODEL, **settings)
        for name, settings in (("looked", {}), ("alone", {"eval_every": 0}))
    )
    assert curve(looked) == [100, 200, 230]
    assert curve(alone) == []
    files = [run.path / "checkpoints/step-00000230" for run in (looked, alone)]
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = ((file / name).read_bytes() for file in files)
        assert one == other


def test_without_validation_tasks_nothing_is_looked_at_by_default(tmp_path, caplog):
    none = {"num_test_tasks": 2, "num_validation_tasks": 0}
    data = fastad.collect(out=tmp_path / "data", **none, **ROOM)
    run = fastad.train(data=data, out=tmp_path / "run", updates=2, **MODEL)
    assert curve(run) == []
    assert "validation" not in caplog.text


def test_a_model_that_cannot_act_so_far_is_trained_without_a_curve(data, tmp_path):
    # Learned positions do not slide, and an episode is longer than the windows.
    settings = MODEL | {"positions": "learned", "context": 3, "window": 3, "start": "anywhere"}
    run = fastad.train(data=data, out=tmp_path / "run", updates=2, **settings)
    assert curve(run) == []
    with pytest.raises(UserError, match="positions=learned has context=3"):
        fastad.train(data=data, out=tmp_path / "new", updates=2, eval_every=1, **settings)


def test_the_curve_may_look_back_farther_than_the_training(data, tmp_path):
    settings = {"updates": 2, "eval_every": 2, "eval_episodes": 12, **MODEL}
    run = fastad.train(data=data, out=tmp_path / "run", eval_context=40, **settings)
    (record,) = [record for record in run.metrics if "eval_last" in record]
    rollouts = {"split": "validation", "rollouts_per_task": 16, "episodes": 12, "seed": 1}
    wide, narrow = (fastad.rollout(run, context=w, **rollouts) for w in (40, None))
    assert record["eval_returns"] == wide.figures()["returns"]
    assert record["eval_returns"] != narrow.figures()["returns"]
    # Another window of the curve is no other training.
    fastad.train(data=data, out=run.path, resume=True, eval_context=30, **settings)
