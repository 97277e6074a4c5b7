"""Long sequences: what training allocates and keeps is in proportion to their tokens."""

import itertools

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastad.base.errors import UserError
from tests.model.test_exactness import make_model, make_steps

LENGTHS = (256, 512, 1024)


class Allocations(TorchDispatchMode):
    """Counts the bytes of all memory that operations return, views aside, and the largest."""

    def __init__(self):
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
        for x in tensors(out):
            if x.untyped_storage().data_ptr() not in known:
                self.total += x.untyped_storage().nbytes()
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return out


def tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def update(model, steps):
    """The gradient of a loss, and the bytes that the forward pass kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(7)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(steps).policy.square().mean()
    found = torch.autograd.grad(loss, model.parameters(), allow_unused=True)
    return [x for x in found if x is not None], sum(kept.values())


def assert_proportional(at_lengths):
    """Equal steps of length cost equally much more."""
    first, second, third = at_lengths
    assert third - second == pytest.approx(2 * (second - first), rel=0.02)


@pytest.mark.parametrize("impl", ["native", "sdpa"])
@pytest.mark.parametrize("positions", ["none", "rope", "alibi"])
def test_an_update_allocates_in_proportion_to_its_tokens(impl, positions):
    totals, largest, kept = [], [], []
    for length in LENGTHS:
        model, steps = make_model(context=64, positions=positions).train(), make_steps(1, length)
        model.kernels = impl
        with Allocations() as allocations:
            kept.append(update(model, steps)[1])
        totals.append(allocations.total)
        largest.append(allocations.largest)
    assert_proportional(totals)
    assert_proportional(kept)
    assert largest[2] <= 2 * largest[1]


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.2, "attention_dropout": 0.2}])
@pytest.mark.parametrize(("impl", "norm"), [("native", "pre"), ("sdpa", "pre"), ("sdpa", "post")])
def test_activation_checkpointing_gives_the_same_gradients_and_keeps_less(impl, norm, settings):
    if settings:
        impl = "reference" if impl == "native" else impl  # which draws its masks by a seed
    model = make_model(context=16, num_layers=3, norm=norm, positions="rope", **settings).train()
    model.kernels, steps = impl, make_steps(2, 48)
    plain, kept = update(model, steps)
    model.checkpoint_activations()
    again, kept_again = update(model, steps)
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)
    assert kept_again < kept / 2
    model.eval()
    _, kept_in_evaluation = update(model, steps)
    assert kept_in_evaluation > kept_again


def test_a_gru_has_no_activation_checkpointing():
    with pytest.raises(UserError, match="activation_checkpointing=True is for blocks"):
        make_model(trunk="gru", context=200).checkpoint_activations()


@pytest.mark.parametrize("impl", ["native", "sdpa"])
@torch.no_grad()
def test_a_step_of_a_long_rollout_allocates_what_a_short_one_does(impl):
    model, steps = make_model(context=16), make_steps(2, 16 * 4)
    model.kernels = impl
    memory = model.make_memory(2)
    held, allocated = [], []
    for step in range(16 * 4):
        with Allocations() as allocations:
            memory.predict(steps.part(step, step + 1))
        if step >= 16:
            allocated.append(allocations.total)
            held.append([(ring.keys.data_ptr(), ring.keys.nbytes) for ring in memory.rings])
    assert len(set(allocated)) == 1
    assert all(one == other for one, other in itertools.pairwise(held))
