"""The residual MLP of the C++ kernels against plain PyTorch, forward and backward."""

import pytest
import torch
from fastad_kernels import reference, residual_mlp
from fastad_kernels.native import mlp, why_unavailable

from tests.kernels.tolerance import assert_as_exact_as_plain

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

NAMES = ("x", "norm_weight", "norm_bias", "in_weight", "in_bias", "out_weight", "out_bias")


def make_inputs(num_tokens=70, width=64, hidden=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "x": (2, num_tokens, width), "norm_weight": (width,), "norm_bias": (width,),
        "in_weight": (hidden, width), "in_bias": (hidden,), "out_weight": (width, hidden),
        "out_bias": (width,),
    }  # fmt: skip
    inputs = [torch.randn(shapes[name], generator=generator) for name in NAMES]
    inputs[3] /= width**0.5
    inputs[5] /= hidden**0.5
    grad_out = torch.randn(shapes["x"], generator=generator)
    return inputs, grad_out


def run(function, inputs, grad_out, *arguments, **keywords):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs, *arguments, **keywords)
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out.to(out.dtype))


def shuffled(inputs, grad_out, shift):
    """The same MLP with its hidden features in another order: another draw of rounding."""
    x, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias = inputs
    moved = [
        x, norm_weight, norm_bias, in_weight.roll(shift, 0), in_bias.roll(shift),
        out_weight.roll(shift, 1), out_bias,
    ]  # fmt: skip
    out, *grads = run(reference.residual_mlp, moved, grad_out, 1e-5)
    grads[3], grads[4] = grads[3].roll(-shift, 0), grads[4].roll(-shift)
    grads[5] = grads[5].roll(-shift, 1)
    return out, *grads


@pytest.mark.parametrize(
    ("num_tokens", "width", "hidden"), [(1, 16, 16), (5, 32, 48), (70, 64, 256), (300, 128, 80)]
)
def test_results_and_gradients_are_as_exact_as_those_of_plain_pytorch(num_tokens, width, hidden):
    inputs, grad_out = make_inputs(num_tokens, width, hidden)
    doubles = [x.double() for x in inputs]
    exact = run(reference.residual_mlp, doubles, grad_out, 1e-5)
    plain = zip(*(shuffled(inputs, grad_out, shift) for shift in (0, 3, 7, 11)), strict=True)
    actual = run(residual_mlp, inputs, grad_out, impl="native")
    for name, a, p, e in zip(("out", *NAMES), actual, plain, exact, strict=True):
        assert_as_exact_as_plain(a, p, e, name)


def test_gelu_is_exact_far_out_and_at_zero():
    # One feature of 16 reaches the MLP, and leaves it as gelu(x) - out, of a norm that is off.
    width = 16
    values = torch.tensor([-40.0, -9.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 9.0, 40.0])
    inputs, _ = make_inputs(1, width, width)
    x = torch.zeros(1, width)
    norm_weight, in_weight, out_weight = torch.zeros(width), torch.zeros(16, width), torch.eye(16)
    in_bias = torch.zeros(16)
    in_bias[: len(values)] = values
    out = residual_mlp(
        x, norm_weight, inputs[2], in_weight, in_bias, out_weight, torch.zeros(width),
        impl="native",
    )  # fmt: skip
    expected = torch.nn.functional.gelu(values.double())
    assert (out[0, : len(values)] - expected).abs().max() <= 2e-7 * 40


def test_gradients_are_bitwise_the_same_every_time():
    inputs, grad_out = make_inputs()
    results = [run(residual_mlp, inputs, grad_out, impl="native") for _ in range(5)]
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_nan_in_one_token_reaches_no_other_token():
    inputs, _ = make_inputs()
    expected = residual_mlp(*inputs, impl="native")
    inputs[0][1, 3] = float("nan")
    actual = residual_mlp(*inputs, impl="native")
    assert actual[1, 3].isnan().all()
    actual[1, 3] = expected[1, 3]
    assert torch.equal(actual, expected)


def test_widths_that_are_no_whole_vectors_take_pytorchs_operations():
    inputs, _ = make_inputs(3, 20, 40)
    assert not mlp.takes(inputs[0], inputs[3])
    assert torch.equal(residual_mlp(*inputs, impl="native"), reference.residual_mlp(*inputs, 1e-5))


def test_under_autocast_pytorchs_operations_do_the_work():
    inputs, _ = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = residual_mlp(*inputs, impl="native")
        assert torch.equal(actual, reference.residual_mlp(*inputs, 1e-5))


def test_the_operators_are_registered_as_pytorch_wants():
    inputs, grad_out = make_inputs(5, 16, 32)
    inputs = [x.requires_grad_() for x in inputs]
    torch.library.opcheck(mlp.mlp_op, (*inputs, 1e-5))
    plain = [x.detach() for x in inputs]
    torch.library.opcheck(mlp.mlp_backward_op, (grad_out, *plain, 1e-5))


def test_a_second_derivative_is_refused():
    inputs, grad_out = make_inputs(5, 16, 32)
    inputs = [x.requires_grad_() for x in inputs]
    out = residual_mlp(*inputs, impl="native")
    (gradient,) = torch.autograd.grad(out, inputs[:1], grad_out, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.sum().backward()
