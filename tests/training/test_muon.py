"""Muon in batches takes PyTorch's steps."""

import pytest
import torch

from fastad.training.muon import Muon, orthogonalise

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = [(8, 8), (24, 8), (8, 24), (8, 8), (5, 7)]


def updated(kind, dtype=torch.float32, **options):
    """Matrices after four steps of an optimiser, from seeded weights and gradients."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    params = [torch.nn.Parameter(values) for values in draw]
    optimizer = kind(params, lr=0.02, **options)
    for _ in range(4):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": False}, {"weight_decay": 0.0}, {"adjust_lr_fn": "match_rms_adamw"}],
)
def test_steps_are_pytorchs_up_to_bfloat16(options):
    """Of an update of size 0.02 a step, bfloat16 keeps 8 bits, through five iterations."""
    ours, theirs = updated(Muon, **options)[0], updated(torch.optim.Muon, **options)[0]
    for mine, its in zip(ours, theirs, strict=True):
        assert (mine - its).abs().max() < 0.02 * 4 * 0.05
        assert (mine - its).abs().max() > 0  # or PyTorch computes in float32 by now: drop ours


def test_the_iteration_is_exact_in_float32():
    """It acts on the singular values alone: on those of a diagonal matrix, by its quintic."""
    a, b, c = COEFFICIENTS
    values = torch.tensor([[0.3, 0.8, 0.5], [0.9, 0.1, 0.4]])
    expected = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        expected = a * expected + b * expected**3 + c * expected**5
    got = orthogonalise(torch.diag_embed(values), COEFFICIENTS, steps=5, epsilon=1e-7)
    torch.testing.assert_close(got, torch.diag_embed(expected), rtol=1e-5, atol=1e-6)


def test_a_matrix_does_not_depend_on_those_beside_it():
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(6, 16, 48, generator=generator)
    alone = orthogonalise(many[2:3], COEFFICIENTS, steps=5, epsilon=1e-7)
    together = orthogonalise(many, COEFFICIENTS, steps=5, epsilon=1e-7)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)


def test_a_gradient_of_zeros_moves_nothing():
    p = torch.nn.Parameter(torch.ones(4, 6))
    p.grad = torch.zeros(4, 6)
    Muon([p], weight_decay=0.0).step()
    assert torch.equal(p, torch.ones(4, 6))


def test_its_state_is_pytorchs():
    """So that a checkpoint of either goes on with the other."""
    ours, theirs = updated(Muon)[1].state_dict(), updated(torch.optim.Muon)[1].state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for mine, its in zip(ours["state"].values(), theirs["state"].values(), strict=True):
        assert mine.keys() == its.keys()
        torch.testing.assert_close(mine["momentum_buffer"], its["momentum_buffer"])


def test_a_matrix_without_gradient_stays():
    still, moving = (torch.nn.Parameter(torch.eye(3)) for _ in range(2))
    moving.grad = torch.eye(3)
    Muon([still, moving]).step()
    assert torch.equal(still, torch.eye(3))
    assert not torch.equal(moving, torch.eye(3))
