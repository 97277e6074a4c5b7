"""The verbs from Python: the same as the commands, quiet, and imported when they are named."""

import inspect
import logging
import subprocess
import sys

import pytest

import fastad
from fastad.base.errors import UserError

MODEL = {"width": 16, "num_layers": 1, "context": 12}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return fastad.collect(
        out=tmp_path_factory.mktemp("world") / "data", num_histories=24, num_episodes=5,
        num_test_tasks=2, env_options={"size": 3, "episode_length": 4},
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(dataset):
    """The run, and what its progress was told."""
    told = []
    run = fastad.train(
        data=dataset, out=dataset.path.with_name("run"), updates=4, log_every=2, eval_every=4,
        progress=lambda *counts, **figures: told.append((counts, figures)), **MODEL,
    )  # fmt: skip
    return run, told


def test_naming_a_config_imports_no_torch_and_naming_a_verb_does():
    code = (
        "import sys, fastad; fastad.CollectConfig(); fastad.preset('bandit');"
        "print('torch' in sys.modules); fastad.collect; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_public_name_is_there_and_no_other():
    assert set(fastad.__all__) <= set(dir(fastad))
    for name in fastad.__all__:
        found = getattr(fastad, name)
        assert found.__name__ == (f"fastad.{name}" if inspect.ismodule(found) else name)
    with pytest.raises(AttributeError, match="'fastad' has no attribute 'colect'"):
        fastad.colect  # noqa: B018


def test_collecting_gives_the_complete_dataset(dataset):
    assert dataset.complete
    assert (dataset.num_histories, dataset.num_steps) == (24, 20)
    assert dataset.info.env_kwargs == {"size": 3, "episode_length": 4}


def test_training_tells_how_far_it_is_with_the_metrics_of_its_log(trained):
    run, told = trained
    assert [counts for counts, _ in told] == [(0, 4), (2, 4), (4, 4), (4, 4)]
    assert "loss" in told[1][1]
    assert "eval_last" in told[3][1]
    assert run.train_seconds == told[2][1]["train_seconds"]
    assert (run.config["model"]["width"], run.config["settings"]["updates"]) == (16, 4)


def test_a_config_and_settings_that_differ_from_it_are_taken_as_one(dataset, trained, tmp_path):
    run, _ = trained
    config = fastad.TrainConfig(
        data=dataset.path, out=tmp_path / "run", model=fastad.ModelConfig(**MODEL),
        settings=fastad.TrainSettings(updates=9, log_every=2),
    )  # fmt: skip
    again = fastad.train(config, updates=4)
    one, other = (each.model().state_dict() for each in (run, again))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_rollout_gives_its_returns_and_leaves_nothing_in_the_run(trained):
    run, _ = trained
    before = sorted(run.path.rglob("*"))
    told = []
    result = fastad.rollout(
        run, episodes=3, rollouts_per_task=2,
        progress=lambda done, total, **figures: told.append(done),
    )  # fmt: skip
    assert (result.env, result.method, result.run) == ("dark-room", "ad", str(run.path))
    assert result.returns.shape == (4, 3)
    assert result.task_returns.shape == (2, 3)
    assert result.trained_episodes == 5
    assert result.actions is None
    assert (told[0], told[-1]) == (0, 4 * 3 * 4)
    assert sorted(run.path.rglob("*")) == before


def test_runs_are_named_by_their_folder_or_a_checkpoint_too(trained):
    run, _ = trained
    config = fastad.RolloutConfig(episodes=2, rollouts_per_task=2, seed=5)
    result = fastad.rollout(run, config, actions=True)
    assert result.actions.shape == (4, 2 * 4)
    assert result.seed == 5
    for path in (str(run.path), run.checkpoints[-1]):
        same = fastad.rollout(path, config, actions=True)
        assert (same.actions == result.actions).all()


@pytest.mark.parametrize(("name", "method"), [("plot", "plot"), ("json", "save")])
def test_files_are_left_to_the_result(trained, tmp_path, name, method):
    with pytest.raises(UserError, match=f"{name}=.* is one; call {method} of the result"):
        fastad.rollout(trained[0], **{name: tmp_path / "x.png"})
    assert not (tmp_path / "x.png").exists()


def test_nothing_is_printed_and_the_logger_is_told(dataset, trained, tmp_path, capsys, caplog):
    with caplog.at_level(logging.INFO, logger="fastad"):
        run = fastad.train(data=dataset, out=tmp_path / "run", updates=1, **MODEL)
        fastad.rollout(run, episodes=1)
    assert capsys.readouterr() == ("", "")
    assert "1 updates of 12 x 20 steps" in caplog.text
    assert "knows the movement rules, not the reward" in caplog.text


def test_the_verbs_raise_what_the_commands_print(tmp_path):
    with pytest.raises(UserError, match="does not exist; make one with: fastad collect"):
        fastad.train(data=tmp_path / "data", out=tmp_path / "run")
    with pytest.raises(UserError, match="workers=0 is not possible; use 1 or more"):
        fastad.CollectConfig(workers=0)
    with pytest.raises(UserError, match=r"unknown setting of fastad\.collect: 'sead'; did"):
        fastad.collect(sead=1)
