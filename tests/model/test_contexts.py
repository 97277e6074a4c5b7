"""Contexts that stand one after another in a row: each is as it would be alone."""

import itertools

import pytest
import torch

from fastad.acting.steps import Steps
from tests.model.test_exactness import LAYOUT_AND_SCHEME, assert_close, make_model, make_steps

# Shorter and longer than the window of 12 tokens.
ROWS = ((5, 1, 20), (12, 14))


def packed(lengths=ROWS):
    """Contexts by themselves, (1, n) each, and the rows that they stand in."""
    contexts = [[make_steps(1, n, seed=10 * i + n) for n in row] for i, row in enumerate(lengths)]
    rows = Steps.join((Steps.join(row) for row in contexts), dim=0)
    starts = torch.zeros_like(rows.episode_start)
    for i, row in enumerate(lengths):
        starts[i, [0, *itertools.accumulate(row[:-1])]] = True
    return contexts, rows._replace(context_start=starts)


def alone(model, contexts):
    return torch.cat([torch.cat([model(c).policy for c in row], dim=1) for row in contexts])


def gradients(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])


MODELS = [
    *({"layout": layout, "positions": scheme} for layout, scheme in LAYOUT_AND_SCHEME),
    {"positions": "learned", "context": 26},
]
GRU = {"trunk": "gru", "context": 200}


@pytest.mark.parametrize(
    ("changes", "impl"),
    [*itertools.product(MODELS, ("sdpa", "native", "reference")), (GRU, "auto")],
    ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else x,
)
def test_contexts_in_a_row_are_as_each_alone(changes, impl):
    model, (contexts, rows) = make_model(**changes), packed()
    model.kernels = "reference"
    expected = alone(model, contexts)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    wanted = gradients(model, (expected * weights).sum())
    model.kernels = impl
    actual = model(rows).policy
    assert_close(actual, expected)
    assert_close(gradients(model, (actual * weights).sum()), wanted)


@pytest.mark.parametrize("changes", [*MODELS, GRU], ids=lambda c: "-".join(map(str, c.values())))
@torch.no_grad()
def test_cached_rollouts_give_the_logits_of_contexts_in_a_row(changes):
    model, (contexts, rows) = make_model(**changes), packed()
    cached = []
    for context in itertools.chain(*contexts):
        memory = model.make_memory(1)
        length = context.previous_action.shape[1]
        cached += [model(context.part(t, t + 1), memory).policy for t in range(length)]
    actual = model(rows).policy
    assert_close(torch.cat(cached, dim=1).view_as(actual), actual)


@torch.no_grad()
def test_a_context_sees_nothing_of_its_neighbours():
    model, (_, rows) = make_model(positions="rope"), packed()
    before = model(rows).policy
    changed = rows.map(torch.clone)
    changed.observation[1, :12] = 8 - changed.observation[1, :12]
    difference = (model(changed).policy - before).abs().sum(-1)
    assert (difference[1, :12] > 0).all()
    assert (difference[1, 12:] == 0).all()
    assert (difference[0] == 0).all()


def test_a_row_without_borders_is_computed_as_ever(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing is packed")

    model, steps = make_model(positions="rope"), make_steps(2, 20)
    monkeypatch.setattr("fastad.model.kernels.attention_varlen", refuse)
    assert model(steps).policy.shape == (2, 20, 5)
    with pytest.raises(AssertionError, match="nothing is packed"):
        model(steps._replace(context_start=steps.episode_start))
