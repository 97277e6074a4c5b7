import base64

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.reports.attention import Attention, attention_by_head, attention_of, steps_in_window

T = 14
VARIANTS = {
    "plain": {},
    "rope": {"positions": "rope"},
    "alibi": {"positions": "alibi"},
    "grouped": {"num_kv_heads": 2},
    "interleaved": {"layout": "interleaved", "context": 13, "positions": "rope"},
    "unordered": {"layout": "unordered", "context": 9},
}


def made(**options):
    torch.manual_seed(0)
    config = ModelConfig(**{"width": 16, "num_heads": 4, "context": 5, **options})
    model = SequenceModel(config, spaces.MultiDiscrete([5, 5]), spaces.Discrete(5), 7).eval()
    for parameter in model.parameters():  # attention that is far from uniform
        torch.nn.init.normal_(parameter, std=0.6)
    observation = torch.randint(0, 5, (1, T, 2))
    steps = Steps(
        observation, torch.randint(0, 5, (1, T)), torch.randn(1, T), torch.rand(1, T) < 0.2,
        torch.arange(T)[None] % 7, previous_observation=observation.roll(1, dims=1),
    )  # fmt: skip
    return model, steps


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_weights_sum_to_one_and_give_what_the_model_attended_to(options):
    model, steps = made(**options)
    per_step, heads = model.config.tokens_per_step, model.config.num_heads
    weights = attention_by_head(model, steps, torch.arange(T))
    assert weights.shape == (T, 2, heads, steps_in_window(model))
    assert torch.allclose(weights.sum(dim=-1), torch.ones(T, 2, heads), atol=1e-6)

    shown = []
    model.trunk.observer = lambda *what: shown.append(what)
    with torch.no_grad():
        model(steps)
    for layer, (q, k, v, out) in enumerate(shown):
        groups = heads // k.shape[2]
        for step in range(T):
            last = (step + 1) * per_step - 1
            first = max(0, last + 1 - model.window)
            slope = 2.0 ** -(8 / heads * torch.arange(1, heads + 1))
            for head in range(heads):
                keys, values = (x[0, first : last + 1, head // groups] for x in (k, v))
                scores = keys @ q[0, last, head] / 2  # head dim 4
                if model.config.positions == "alibi":
                    scores -= slope[head] * torch.arange(last - first, -1, -1)
                by_token = scores.softmax(dim=0)
                # By hand, and by what the model's own attention returned.
                assert torch.allclose(by_token @ values, out[0, last, head], atol=1e-5)
                by_step = torch.zeros(T)
                for token, weight in enumerate(by_token.tolist(), start=first):
                    by_step[token // per_step] += weight
                told = torch.zeros(T)
                row = weights[step, layer, head]
                for place in range(len(row)):
                    key = step - len(row) + 1 + place
                    if key >= 0:
                        told[key] = row[place]
                    else:
                        assert row[place] == 0
                assert torch.allclose(told, by_step, atol=1e-5)


def test_a_context_that_begins_anew_is_not_looked_behind():
    model, steps = made()
    starts = torch.zeros(1, T, dtype=torch.bool)
    starts[0, 6] = True
    attention = attention_of(
        model, steps._replace(context_start=starts), torch.tensor([3, 6, 7]), before=2
    )
    assert attention.query.tolist() == [1, 4, 5]
    alone = attention_by_head(model, steps.part(6, T), torch.tensor([0, 1])).mean(dim=2)
    assert np.allclose(attention.weights[1:], alone, atol=1e-6)
    assert (attention.weights[1, :, -1] == 1).all()  # the first sees itself alone


def test_a_gru_has_no_attention_and_the_observer_does_not_stay():
    steps = made()[1]
    config = ModelConfig(trunk="gru", width=16)
    gru = SequenceModel(config, spaces.MultiDiscrete([5, 5]), spaces.Discrete(5), 7).eval()
    assert attention_by_head(gru, steps, torch.arange(T)) is None
    model, steps = made()
    attention_by_head(model, steps, torch.arange(2))
    assert model.trunk.observer is None


def test_json_gives_weights_back_to_a_level():
    weights = np.random.default_rng(0).random((3, 2, 7), np.float32)
    weights[1, 0] = 0
    told = Attention(np.array([4, 5, 9]), weights).to_json()
    levels = np.frombuffer(base64.b64decode(told["data"]), np.uint8).reshape(weights.shape)
    back = levels / 255 * np.array(told["scale"])[..., None]
    assert np.abs(back - weights).max() <= 0.5 / 255 * weights.max() + 1e-5
    assert told["query"] == [4, 5, 9]
