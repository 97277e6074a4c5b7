"""RL^2 from the command line's settings to a rollout: its own defaults, its exact resume."""

import pytest
from safetensors.torch import load_file

import fastad
from fastad.base.errors import UserError
from fastad.cli.flags import parse

SIZES = {"updates": 4, "batch_size": 6, "width": 16, "log_every": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    room = {"size": 3, "episode_length": 4}
    return fastad.collect(
        out=tmp_path_factory.mktemp("data") / "room", env_options=room, num_histories=24,
        num_episodes=12, num_test_tasks=2,
    )  # fmt: skip


def weights(run):
    return (run.checkpoints[-1] / "model.safetensors").read_bytes()


def test_its_defaults_hold_for_what_nobody_set():
    for config in (
        parse("train", ["--method", "rl2", "--batch-size", "12"]),
        fastad.TrainConfig.begin_with({"method": "rl2"}),
    ):
        assert (config.method, config.model.trunk, config.settings.optimizer) == (
            "rl2", "gru", "adamw",
        )  # fmt: skip
    assert parse("train", ["--method", "rl2", "--batch-size", "12"]).settings.batch_size == 12
    assert parse("train", ["--method=rl2"]).settings.batch_size > 12
    assert parse("train", []) == fastad.TrainConfig()


def test_a_run_that_was_stopped_ends_with_the_same_bits(dataset, tmp_path):
    whole = fastad.train(data=dataset, out=tmp_path / "whole", method="rl2", **SIZES)

    def stop(done, total, **metrics):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastad.train(data=dataset, out=tmp_path / "it", method="rl2", progress=stop, **SIZES)
    broken = fastad.train(data=dataset, out=tmp_path / "it", method="rl2", resume=True, **SIZES)
    assert broken.updates == whole.updates == 4
    assert weights(broken) == weights(whole)
    assert {"heads.value.weight", "trunk.layers.weight_hh_l0"} <= load_file(
        whole.checkpoints[-1] / "model.safetensors"
    ).keys()


def test_a_trial_is_10_episodes_and_a_rollout_is_as_long(dataset, tmp_path):
    run = fastad.train(data=dataset, out=tmp_path / "run", method="rl2", **SIZES)
    # Of 4 steps each they are fewer than 200 steps, and a history has 12 episodes.
    assert run.config["settings"]["window"] == 48
    assert {"reward", "entropy", "value_error"} <= run.metrics[0].keys()
    result = fastad.rollout(run, rollouts_per_task=2)
    assert (result.method, result.label) == ("rl2", "RL^2")
    assert result.returns.shape == (4, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ad", "gamma": 0.9}, "gamma=0.9 is for method=rl2, and this is method=ad"),
        ({"method": "rl2", "target": "final"}, "target=final chooses from histories"),
        ({"method": "rl2", "every_kth_episode": 2}, "every_kth_episode=2 chooses from"),
        ({"method": "rl2", "token_mask": 0.3}, "token_mask=0.3 makes the policy that learns"),
        ({"method": "rl2", "context": 100}, "context=100 is for trunk=transformer"),
        ({"method": "rl2", "gamma": 2.0}, "gamma=2.0 must be in"),
        ({"method": "rl3"}, "method"),
    ],
)
def test_what_cannot_go_together_is_refused_before_any_work(dataset, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        fastad.train(data=dataset, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
