"""The recurrent trunk: what its state remembers is what the whole sequence would tell."""

import pytest
import torch
from gymnasium import spaces

import fastad
from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.model.config import ModelConfig
from fastad.model.kernels import check_kernels
from fastad.model.sequence_model import SequenceModel

EPISODE, TOLERANCE = 5, 1e-5  # relative to the largest logit, in float32
SIZES = {"trunk": "gru", "width": 24, "num_layers": 2}


def make_model(**changes):
    torch.manual_seed(0)
    config = ModelConfig(**SIZES | changes)
    return SequenceModel(config, spaces.MultiDiscrete([9, 9]), spaces.Discrete(5), EPISODE).eval()


def make_steps(batch, length):
    generator = torch.Generator().manual_seed(0)
    action = torch.randint(5, (batch, length), generator=generator)
    action[:, 0] = 5
    step = (torch.arange(length) % EPISODE).expand(batch, length)
    return Steps(
        torch.randint(9, (batch, length, 2), generator=generator),
        action,
        torch.randint(2, (batch, length), generator=generator).float(),
        step == 0,
        step,
    )


def assert_close(actual, expected):
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@pytest.mark.parametrize("kv_cache", [True, False])
@torch.no_grad()
def test_environments_re_tasked_at_different_times_keep_exact_states(layout, kv_cache):
    model = make_model(layout=layout)
    length, starts = 40, [0, 13, 26]
    steps = make_steps(3, length)
    memory = model.make_memory(3, kv_cache=kv_cache)
    predicted = []
    for t in range(length):
        for row, start in enumerate(starts):
            if t == start > 0:
                if kv_cache:
                    memory.state[:, row] = 7.0  # nothing of it may be left
                memory.forget(torch.arange(3) == row)
        rows = [
            steps.part(t - s if t >= s else t, (t - s if t >= s else t) + 1, slice(row, row + 1))
            for row, s in enumerate(starts)
        ]
        predicted.append(memory.predict(Steps.join(rows, dim=0)))
    logits = torch.stack(predicted, dim=1)
    for row, start in enumerate(starts):
        whole = model(steps.part(0, length - start, slice(row, row + 1))).policy
        assert_close(logits[row : row + 1, start:], whole)


@torch.no_grad()
def test_many_steps_may_be_remembered_at_once():
    model, steps = make_model(), make_steps(2, 30)
    memory = model.make_memory(2, prompt_steps=17)
    pieces = [(0, 17), (17, 18), (18, 30)]
    carried = [model(steps.part(first, last), memory).policy for first, last in pieces]
    assert_close(torch.cat(carried, dim=1), model(steps).policy)
    forgetful = torch.cat([model(steps.part(*piece)).policy for piece in pieces], dim=1)
    assert (forgetful - model(steps).policy)[:, 17].abs().max() > 1e-3  # the state counts


@torch.no_grad()
def test_values_are_predicted_beside_policies_and_change_none_of_their_bits():
    steps = make_steps(2, 10)
    space, actions = spaces.MultiDiscrete([9, 9]), spaces.Discrete(5)
    for trunk in ("gru", "transformer"):
        config = ModelConfig(trunk=trunk, width=16)
        both, alone = (
            SequenceModel(config, space, actions, EPISODE, value=value).eval()
            for value in (True, False)
        )
        missing = both.load_state_dict(alone.state_dict(), strict=False).missing_keys
        assert missing == ["heads.value.weight", "heads.value.bias"]
        output = both(steps)
        assert output.value.shape == (2, 10)
        assert torch.equal(output.policy, alone(steps).policy)
        assert alone(steps).value is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_heads", 2), ("context", 50), ("positions", "rope"), ("norm", "post"), ("dropout", 0.1)],
)
def test_what_a_gru_has_not_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"^{field}={value} is for trunk=transformer"):
        ModelConfig(trunk="gru", **{field: value})


def test_a_gru_has_no_kernels_and_no_window_but_any_width():
    model = make_model(width=7)  # no multiple of the heads that it has not
    with pytest.raises(UserError, match=r"kernels=native .* a GRU has none"):
        check_kernels("native", model.config, torch.device("cpu"))
    with pytest.raises(UserError, match="context=50: a GRU has no attention window"):
        model.check_window(50)


def test_a_gru_distils_and_rolls_out_alike_with_and_without_its_state(tmp_path):
    room = {"size": 3, "episode_length": 4}
    dataset = fastad.collect(
        out=tmp_path / "data", env_options=room, num_histories=24, num_episodes=5, num_test_tasks=2
    )
    sizes = {"trunk": "gru", "width": 16, "num_layers": 1}
    run = fastad.train(data=dataset, out=tmp_path / "run", updates=6, **sizes)
    assert run.made_by["numerics"]["kernels"] == {}  # PyTorch does all of it
    cached, recomputed = (
        fastad.rollout(run, episodes=2, rollouts_per_task=4, kv_cache=kv_cache, actions=True)
        for kv_cache in (True, False)
    )
    assert (cached.actions == recomputed.actions).all()
    assert (cached.context, cached.trained_context) == (None, None)
    with pytest.raises(UserError, match=r"kernels=native .* a GRU has none"):
        fastad.rollout(run, kernels="native")
