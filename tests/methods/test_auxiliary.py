"""What is shown in place of what is stored, and what the encoder is taught besides."""

import math

import pytest
import torch

import fastad
from fastad.base.errors import UserError
from fastad.histories.reader import HistoryDataset
from fastad.methods.registry import make_method
from fastad.model.config import ModelConfig

SMALL = {"height": 8, "width": 8, "episode_length": 5}


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Two datasets of the very same histories: poses are stored, or the frames seen from them."""
    out = {}
    for store in ("pose", "frames"):
        path = tmp_path_factory.mktemp("pools") / store
        fastad.collect(
            out=path, env="watermaze", env_options=SMALL | {"store": store}, source="eliminate",
            num_histories=6, num_episodes=4, num_train_tasks=3, num_test_tasks=2,
        )  # fmt: skip
        out[store] = path
    return out


def method_of(path, *, auxiliary_weight=0.0):
    return make_method(
        "ad", HistoryDataset(path), num_steps=20, batch_size=4, seed=0, target="policy",
        auxiliary_weight=auxiliary_weight,
    )  # fmt: skip


def model_of(method):
    torch.manual_seed(0)
    return method.build_model(ModelConfig(width=16, context=20)).train()


def test_whether_poses_or_frames_are_stored_the_model_sees_the_same(pools):
    losses = []
    for store in ("pose", "frames"):
        method = method_of(pools[store])
        model, batch = model_of(method), method.batch(0)
        losses.append(method.loss(model(batch.steps), batch)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_model_of_poses_sees_nothing_but_their_frames(pools):
    method = method_of(pools["pose"])
    model, steps = model_of(method).eval(), method.batch(0).steps
    frame = method.family.show(steps.observation)
    # A turn too small to change a pixel.
    nudged = steps.observation + torch.tensor([0.0, 0.0, 1e-6])
    same = (method.family.show(nudged) == frame).flatten(2).all(-1)
    assert same.all()
    shown = steps._replace(observation=nudged)
    assert torch.equal(model(shown).policy, model(steps).policy)


def test_the_auxiliary_loss_is_the_cross_entropy_to_codes_of_place_and_heading(pools):
    method = method_of(pools["pose"], auxiliary_weight=0.5)
    model, batch = model_of(method), method.batch(0)
    with torch.no_grad():
        for head in model.auxiliary.values():
            head.weight.zero_()
            head.bias.zero_()
    output = model(batch.steps)
    loss, figures = method.loss(output, batch)
    # Of codes that are all alike, whatever the targets: the logarithm of how many there are.
    codes = method.family.auxiliary()
    expected = sum(math.log(number) for number in codes.values())
    assert figures["auxiliary"].item() == pytest.approx(expected, rel=1e-5)
    plain = method_of(pools["pose"]).loss(output, batch)[0]
    assert loss.item() == pytest.approx(plain.item() + 0.5 * expected, rel=1e-5)


def test_the_auxiliary_loss_teaches_the_encoder_and_nothing_behind_it(pools):
    method = method_of(pools["pose"], auxiliary_weight=1.0)
    model, batch = model_of(method), method.batch(0)
    method._auxiliary_loss(model(batch.steps), batch).backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught
    assert all(name.startswith(("encoder.observation.", "auxiliary.")) for name in taught)


def test_outside_of_training_nothing_auxiliary_is_predicted(pools):
    method = method_of(pools["pose"], auxiliary_weight=1.0)
    model = model_of(method)
    assert model(method.batch(0).steps).auxiliary.keys() == {"place", "heading"}
    assert model.eval()(method.batch(0).steps).auxiliary is None


def test_what_tells_nothing_cannot_be_learned_from(pools, tmp_path):
    with pytest.raises(UserError, match=r"auxiliary_weight=1\.0: env=watermaze tells nothing"):
        method_of(pools["frames"], auxiliary_weight=1.0)
    fastad.collect(out=tmp_path / "room", num_histories=2, num_episodes=2)
    with pytest.raises(UserError, match=r"auxiliary_weight=1\.0: env=dark-room tells nothing"):
        method_of(tmp_path / "room", auxiliary_weight=1.0)


def test_a_trained_model_comes_back_with_its_scale_and_rolls_out_alike_without_cache(
    pools, tmp_path
):
    run = fastad.train(
        data=pools["pose"], out=tmp_path / "run", updates=2, batch_size=2, context=10,
        auxiliary_weight=1.0, eval_every=0,
    )  # fmt: skip
    scale = run.model().encoder.observation.encoder.scale
    assert not torch.equal(scale.std, torch.ones_like(scale.std))
    results = [
        fastad.rollout(run, episodes=4, rollouts_per_task=2, kv_cache=cached)
        for cached in (True, False)
    ]
    assert (results[0].returns == results[1].returns).all()
    assert results[0].label == (
        "algorithm distillation, auxiliary loss: told place and heading in training"
    )
