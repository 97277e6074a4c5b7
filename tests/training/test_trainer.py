"""Training: determinism, exact resume, and what happens when it goes wrong."""

import pytest
import torch

from fastad.base.errors import UserError
from fastad.methods.ad import AlgorithmDistillation
from fastad.training.checkpoint import load_model
from fastad.training.checkpoint_folder import list_checkpoints
from fastad.training.settings import TrainSettings
from fastad.training.trainer import train


def quiet(step, metrics):
    pass


def run_training(build, run, *, log=quiet, evaluate=None, model=None, **settings):
    settings = TrainSettings(**({"updates": 12, "log_every": 3, "warmup_updates": 2} | settings))
    network, method = build(target=settings.target, **(model or {}))
    train(network, method, settings, run=run, log=log, evaluate=evaluate)
    return network.state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("target", ["policy", "sampled"])
def test_the_loss_falls(tiny_training, tmp_path, optimizer, target):
    losses = []
    run_training(
        tiny_training, tmp_path, log=lambda step, m: losses.append(m["loss"]),
        updates=60, log_every=10, optimizer=optimizer, target=target,
    )  # fmt: skip
    # Sampled actions have a floor, the entropy of the source itself.
    assert losses[-1] < losses[0] - 0.2


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(tiny_training, tmp_path):
    one, two = (run_training(tiny_training, tmp_path / name) for name in "ab")
    assert_same(one, two)
    other = run_training(tiny_training, tmp_path / "c", model={"seed": 1}, seed=1)
    assert not torch.equal(one["heads.policy.weight"], other["heads.policy.weight"])


@pytest.mark.parametrize(("file", "kept"), [("metrics.jsonl", 5), (None, 6)])
def test_an_update_whose_line_of_the_log_was_not_written_is_done_again(
    tiny_training, tmp_path, file, kept
):
    """Whoever went on after it would never write that line; of a terminal nobody expects any."""

    def log(step, metrics):
        if step == 6:
            raise OSError(28, "No space left on device", file)

    with pytest.raises(OSError, match="No space"):
        run_training(tiny_training, tmp_path, log=log, checkpoint_every=5)
    assert list_checkpoints(tmp_path)[-1].name == f"step-{kept:08d}"


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    tiny_training, tmp_path, monkeypatch, optimizer
):
    # Dropout on: its masks, too, must be those of the unbroken run.
    settings = {"optimizer": optimizer, "checkpoint_every": 5}
    model = {"dropout": 0.1, "token_mask": 0.2}
    whole = run_training(tiny_training, tmp_path / "whole", model=model, **settings)

    def stop(step, metrics):
        if step == 9:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_training(tiny_training, tmp_path / "broken", log=stop, model=model, **settings)
    assert [c.name for c in list_checkpoints(tmp_path / "broken")] == ["step-00000005"]
    resumed = run_training(tiny_training, tmp_path / "broken", model=model, **settings)
    assert_same(resumed, whole)


def test_evaluation_sees_a_model_without_dropout_and_changes_nothing(tiny_training, tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model.training)
        torch.rand(3)
        return {"eval_last": 1.0}

    plain = run_training(tiny_training, tmp_path / "a", model={"dropout": 0.3})
    watched = run_training(
        tiny_training, tmp_path / "b", evaluate=evaluate, eval_every=5, model={"dropout": 0.3}
    )
    assert seen == [False, False, False]  # after 5, 10 and the last
    assert_same(plain, watched)


def test_a_nan_loss_stops_names_the_update_and_keeps_the_last_good_checkpoint(
    tiny_training, tmp_path, monkeypatch
):
    calls = []

    original = AlgorithmDistillation.loss

    def diverging(method, output, batch):
        calls.append(None)
        loss, figures = original(method, output, batch)
        return (loss * float("nan") if len(calls) == 8 else loss), figures

    monkeypatch.setattr(AlgorithmDistillation, "loss", diverging)
    with pytest.raises(UserError, match=r"loss=nan, .* at update 7: training stopped; last good"):
        run_training(tiny_training, tmp_path, checkpoint_every=4)
    (kept,) = list_checkpoints(tmp_path)
    assert kept.name == "step-00000004"
    assert all(p.isfinite().all() for p in load_model(kept).parameters())


def test_a_gradient_that_is_not_finite_stops_before_its_weights_are_kept(
    tiny_training, tmp_path, monkeypatch
):
    calls = []

    def clip(parameters, limit, **how):
        calls.append(None)
        norm = torch.tensor(1.0)
        if len(calls) == 3:
            for parameter in parameters:
                parameter.grad.fill_(float("nan"))
            norm = norm * float("nan")
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    with pytest.raises(UserError, match=r"gradient_norm=nan at update 2"):
        run_training(tiny_training, tmp_path, checkpoint_every=2, log_every=12)
    (kept,) = list_checkpoints(tmp_path)
    assert kept.name == "step-00000002"


def test_checkpoints_and_evaluations_do_not_change_the_logged_loss(tiny_training, tmp_path):
    logs = []
    for name, options in (("a", {}), ("b", {"checkpoint_every": 5, "eval_every": 4})):
        losses = {}
        run_training(
            tiny_training, tmp_path / name, log_every=6, evaluate=lambda model: {},
            log=lambda step, m, kept=losses: kept.update({step: m["loss"]} if "loss" in m else {}),
            **options,
        )  # fmt: skip
        logs.append(losses)
    assert logs[0] == logs[1]


def test_an_interrupt_within_an_update_leaves_no_torn_checkpoint(
    tiny_training, tmp_path, monkeypatch
):
    def torn(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    with pytest.raises(KeyboardInterrupt):
        run_training(tiny_training, tmp_path)
    assert list_checkpoints(tmp_path) == []


def test_ctrl_c_keeps_everything_up_to_the_last_whole_update(tiny_training, tmp_path):
    whole = run_training(tiny_training, tmp_path / "whole")

    def interrupt(step, metrics):
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(tiny_training, tmp_path / "cut", log=interrupt, checkpoint_every=0)
    assert [c.name for c in list_checkpoints(tmp_path / "cut")] == ["step-00000009"]
    assert_same(run_training(tiny_training, tmp_path / "cut", checkpoint_every=0), whole)


def test_gradients_are_clipped_to_the_limit_and_zero_turns_it_off(
    tiny_training, tmp_path, monkeypatch
):
    limits = []
    original = torch.nn.utils.clip_grad_norm_

    def record(parameters, limit, **how):
        limits.append(limit)
        return original(parameters, limit, **how)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
    run_training(tiny_training, tmp_path / "a", clip=0.25, updates=1)
    run_training(tiny_training, tmp_path / "b", clip=0.0, updates=1)
    assert limits == [0.25, float("inf")]


def test_bf16_autocast_changes_the_numbers_but_still_learns(tiny_training, tmp_path):
    losses = []
    run_training(
        tiny_training, tmp_path, log=lambda step, m: losses.append(m["loss"]),
        updates=30, log_every=10, precision="bf16",
    )  # fmt: skip
    assert losses[-1] < losses[0]
