"""Models that read the return to go: kept or recomputed, the same logits."""

import itertools

import pytest
import torch
from fastad_kernels import native
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.training.checkpoint import load_model, save_checkpoint

SPACES = {
    "coordinates": spaces.MultiDiscrete([9, 9]),
    "vector": spaces.Box(-1.0, 1.0, (7,)),
}
EPISODE, CONTEXT, NUM_ENVS = 5, 12, 3
TOLERANCE = 1e-5  # relative to the largest logit, in float32


def make_model(space="coordinates", **changes):
    torch.manual_seed(0)
    config = ModelConfig(**({"context": CONTEXT, "num_layers": 3, "width": 32} | changes))
    model = SequenceModel(
        config, SPACES[space], spaces.Discrete(5), EPISODE, return_scale=4.0
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3.0)  # as sharp as a trained model: errors would show
    return model


def make_steps(length, space="coordinates", batch=NUM_ENVS):
    generator = torch.Generator().manual_seed(0)
    action = torch.randint(5, (batch, length), generator=generator)
    action[:, 0] = 5
    step = (torch.arange(length) % EPISODE).expand(batch, length)
    return Steps(
        torch.randint(9, (batch, length, 2), generator=generator)
        if space == "coordinates"
        else torch.rand((batch, length, 7), generator=generator),
        action,
        torch.rand((batch, length), generator=generator),
        step == 0,
        step,
        torch.rand((batch, length), generator=generator) * 4,
    )


def assert_close(actual, expected):
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


NATIVE = pytest.param(
    "native",
    marks=pytest.mark.skipif(
        native.why_unavailable() is not None, reason="the C++ kernels are not here"
    ),
)


@pytest.mark.parametrize("impl", ["sdpa", NATIVE])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    ("layout", "positions"),
    list(itertools.product(["fused", "interleaved"], ["none", "rope", "alibi"])),
)
@torch.no_grad()
def test_cached_logits_equal_recomputed_after_three_windows(layout, positions, space, impl):
    model = make_model(space, layout=layout, positions=positions)
    length = 4 * CONTEXT
    steps = make_steps(length, space)
    model.kernels = "reference"
    expected = model(steps).policy
    model.kernels = impl
    memory = model.make_memory(NUM_ENVS)
    assert (memory.frozen is not None) == (impl == "native")
    shown = (steps.part(t, t + 1) for t in range(length))
    cached = torch.stack([memory.predict(step) for step in shown], dim=1)
    assert_close(cached, expected)


@torch.no_grad()
def test_contexts_that_begin_at_different_times_are_recomputed_from_what_they_were_shown():
    model = make_model()
    length, forgotten = 40, {17: [1], 31: [0, 2]}
    steps = make_steps(length)
    kept, recomputed = (model.make_memory(NUM_ENVS, kv_cache=kv) for kv in (True, False))
    for t in range(length):
        for memory in (kept, recomputed) if t in forgotten else ():
            memory.forget(torch.isin(torch.arange(NUM_ENVS), torch.tensor(forgotten[t])))
        step = steps.part(t, t + 1)
        assert_close(kept.predict(step), recomputed.predict(step))


@torch.no_grad()
def test_a_gru_reads_it_too():
    torch.manual_seed(0)
    model = SequenceModel(
        ModelConfig(trunk="gru", width=32), SPACES["coordinates"], spaces.Discrete(5), EPISODE,
        return_scale=4.0,
    ).eval()  # fmt: skip
    steps, memory = make_steps(30), model.make_memory(NUM_ENVS)
    shown = (steps.part(t, t + 1) for t in range(30))
    cached = torch.stack([memory.predict(step) for step in shown], dim=1)
    assert_close(cached, model(steps).policy)


@torch.no_grad()
def test_it_changes_predictions_from_its_step_on_and_none_before():
    model = make_model()
    steps = make_steps(20)
    other = steps.return_to_go.clone()
    other[:, 10] += 1.0
    difference = (model(steps._replace(return_to_go=other)).policy - model(steps).policy).abs()
    assert difference[:, :10].max() == 0
    assert (difference[:, 10].amax(dim=-1) > 0).all()


@torch.no_grad()
def test_it_enters_as_a_share_of_the_scale_times_a_vector():
    model = make_model(num_layers=1)
    steps = make_steps(1)._replace(return_to_go=torch.full((NUM_ENVS, 1), 3.0))
    nothing = steps._replace(return_to_go=torch.zeros(NUM_ENVS, 1))
    features = model.encoder.observe(steps)
    added = model.encoder(steps, features, impl="sdpa") - model.encoder(
        nothing, features, impl="sdpa"
    )
    expected = 0.75 * model.encoder.return_to_go.weight  # 3 of 4
    torch.testing.assert_close(added, expected.expand(NUM_ENVS, 1, -1))


@torch.no_grad()
def test_a_checkpoint_keeps_whether_and_by_what_scale(tmp_path):
    model, steps = make_model(), make_steps(4)
    save_checkpoint(tmp_path, 1, model, [], train_seconds=0.0)
    loaded = load_model(tmp_path)
    assert loaded.return_scale == 4.0
    assert torch.equal(loaded(steps).policy, model(steps).policy)


def test_other_models_have_no_such_parameter():
    model = SequenceModel(ModelConfig(), SPACES["vector"], spaces.Discrete(5), EPISODE)
    assert not [name for name, _ in model.named_parameters() if "return" in name]
