"""Linear maps and the residual MLP of the C++ kernels against plain PyTorch, with gradients."""

import pytest
import torch
from fastad_kernels import projection, reference, residual_mlp
from fastad_kernels.native import mlp, takes_rows, why_unavailable
from fastad_kernels.native.projection import projection_backward_op, projection_op

from tests.kernels.tolerance import NUM_DRAWS, assert_as_exact_as_plain

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

NAMES = ("x", "norm_weight", "norm_bias", "in_weight", "in_bias", "out_weight", "out_bias")


def make_inputs(num_tokens=70, width=64, hidden=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "x": (3, num_tokens, width), "norm_weight": (width,), "norm_bias": (width,),
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


ORDERS = (0, 3, 7, 11)


@pytest.fixture
def threads(request):
    """Threads of the kernels, that gather the weights' gradients.

    Plain PyTorch has one: its sums over tokens are as exact as it has threads to share them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param
    torch.set_num_threads(before)


def on_threads(threads, function, *arguments, **keywords):
    torch.set_num_threads(threads)
    try:
        return function(*arguments, **keywords)
    finally:
        torch.set_num_threads(1)


def assert_pooled_as_exact_as_plain(names, draw):
    """Compare results, stacked over seeds.

    Args:
        names: Of the results.
        draw: From a seed to the results of the kernel, of plain PyTorch in each order, and in
            float64.
    """
    actual, plain, exact = zip(*map(draw, range(NUM_DRAWS)), strict=True)
    for number, name in enumerate(names):
        orders = [torch.stack([results[number] for results in p]) for p in zip(*plain, strict=True)]
        ours, wanted = (torch.stack([results[number] for results in x]) for x in (actual, exact))
        assert_as_exact_as_plain(ours, orders, wanted, name)


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize(
    ("num_tokens", "width", "hidden"),
    [(1, 16, 16), (5, 32, 48), (70, 64, 256), (300, 128, 80), (61, 20, 37)],
)
def test_results_and_gradients_are_as_exact_as_those_of_plain_pytorch(
    num_tokens, width, hidden, threads
):
    def draw(seed):
        inputs, grad_out = make_inputs(num_tokens, width, hidden, seed)
        doubles = [x.double() for x in inputs]
        return (
            on_threads(threads, run, residual_mlp, inputs, grad_out, impl="native"),
            [shuffled(inputs, grad_out, shift) for shift in ORDERS],
            run(reference.residual_mlp, doubles, grad_out, 1e-5),
        )

    assert_pooled_as_exact_as_plain(("out", *NAMES), draw)


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


@pytest.mark.parametrize(("num_tokens", "width", "hidden"), [(70, 64, 256), (61, 20, 37)])
def test_what_gelu_takes_has_the_same_bits_kept_or_computed_again(
    num_tokens, width, hidden, monkeypatch
):
    inputs, grad_out = make_inputs(num_tokens, width, hidden)
    kept = run(residual_mlp, inputs, grad_out, impl="native")
    monkeypatch.setattr(mlp, "MAX_KEPT_BYTES", 0)
    computed = run(residual_mlp, inputs, grad_out, impl="native")
    assert all(map(torch.equal, kept, computed))


def test_weights_and_what_is_kept_may_lie_in_memory_in_any_order():
    """As hooks that offload or compress what autograd saves may give it."""
    inputs, grad_out = make_inputs(70, 64, 256)
    expected = run(residual_mlp, inputs, grad_out, impl="native")

    def turn(x):
        return x.t().contiguous() if x.ndim == 2 else x

    with torch.autograd.graph.saved_tensors_hooks(turn, lambda x: x.t() if x.ndim == 2 else x):
        kept = run(residual_mlp, inputs, grad_out, impl="native")
    inputs = [turn(x).t() if x.ndim == 2 else x for x in inputs]
    turned = run(residual_mlp, inputs, grad_out, impl="native")
    assert all(map(torch.equal, kept + turned, expected + expected))


def test_nan_in_one_token_reaches_no_other_token():
    inputs, _ = make_inputs()
    expected = residual_mlp(*inputs, impl="native")
    inputs[0][1, 3] = float("nan")
    actual = residual_mlp(*inputs, impl="native")
    assert actual[1, 3].isnan().all()
    actual[1, 3] = expected[1, 3]
    assert torch.equal(actual, expected)


def test_under_autocast_pytorchs_operations_do_the_work():
    inputs, _ = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = residual_mlp(*inputs, impl="native")
        torch.testing.assert_close(actual, reference.residual_mlp(*inputs, 1e-5))


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


def run_projection(function, inputs, grad_out, *, with_norm, with_residual, **keywords):
    """Output and gradients of all inputs that take part."""
    x, weight, bias, scale, shift, residual = (y.detach().requires_grad_() for y in inputs)
    taking_part = [x, weight, bias]
    settings = {"norm": None, "residual": None, **keywords}
    if with_norm:
        settings["norm"], taking_part = (scale, shift), [*taking_part, scale, shift]
    if with_residual:
        settings["residual"], taking_part = residual, [*taking_part, residual]
    out = function(x, weight, bias, **settings)
    return out.detach(), *torch.autograd.grad(out, taking_part, grad_out.to(out.dtype))


def make_projection(num_tokens, size, out, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (3, num_tokens, size), (out, size), out, size, size, (3, num_tokens, out)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    return inputs, torch.randn(shapes[-1], generator=generator)


def reordered_projections(inputs, grad_out, parts):
    """Plain PyTorch's results, once per order of summation."""
    plain = []
    for shift in ORDERS:
        # The same sums in another order: features of x, and tokens.
        x, weight, bias, scale, offset, residual = inputs
        moved = [
            x.roll(shift, -1).roll(shift, 1), weight.roll(shift, 1), bias, scale.roll(shift),
            offset.roll(shift), residual.roll(shift, 1),
        ]  # fmt: skip
        y, dx, dweight, dbias, *rest = run_projection(
            reference.projection, moved, grad_out.roll(shift, 1), **parts
        )
        rest = [
            g.roll(-shift, 1) if g.ndim == 3 else g.roll(-shift) for g in rest
        ]  # fmt: skip
        plain.append(
            [
                y.roll(-shift, 1), dx.roll(-shift, 1).roll(-shift, -1), dweight.roll(-shift, 1),
                dbias, *rest,
            ]
        )  # fmt: skip
    return plain


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize(
    ("num_tokens", "size", "out"), [(1, 16, 16), (45, 64, 192), (301, 80, 48), (37, 20, 7)]
)
def test_linear_maps_are_as_exact_as_those_of_plain_pytorch(
    with_norm, with_residual, num_tokens, size, out, threads
):
    parts = {"with_norm": with_norm, "with_residual": with_residual, "epsilon": 1e-5}

    def draw(seed):
        inputs, grad_out = make_projection(num_tokens, size, out, seed)
        doubles = [x.double() for x in inputs]
        return (
            on_threads(
                threads, run_projection, projection, inputs, grad_out, impl="native", **parts
            ),
            reordered_projections(inputs, grad_out, parts),
            run_projection(reference.projection, doubles, grad_out, **parts),
        )

    names = ["out", "x", "weight", "bias", *["norm_weight", "norm_bias"] * with_norm]
    assert_pooled_as_exact_as_plain([*names, *["residual"] * with_residual], draw)


def test_linear_maps_are_registered_and_refuse_second_derivatives():
    inputs, grad_out = make_projection(5, 16, 32)
    x, weight, bias, scale, shift, residual = (y.requires_grad_() for y in inputs)
    torch.library.opcheck(projection_op, (x, weight, bias, scale, shift, residual, 1e-5))
    torch.library.opcheck(projection_op, (x, weight, bias, None, None, None, 1e-5))
    plain = [y.detach() for y in (x, weight, bias, scale, shift)]
    torch.library.opcheck(projection_backward_op, (grad_out, *plain, 1e-5))
    out = projection(x, weight, bias, impl="native")
    (gradient,) = torch.autograd.grad(out, [x], grad_out, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        gradient.sum().backward()


def test_what_is_not_float32_takes_pytorchs_operations():
    inputs, _ = make_projection(3, 20, 7)
    x, weight, bias, scale, shift, residual = (y.double() for y in inputs)
    assert not takes_rows((weight, bias), (x,))
    settings = {"norm": (scale, shift), "residual": residual, "epsilon": 1e-5}
    actual = projection(x, weight, bias, impl="native", **settings)
    torch.testing.assert_close(actual, reference.projection(x, weight, bias, **settings))


def test_no_tokens_have_gradients_of_zero():
    inputs, grad_out = make_projection(0, 20, 7)
    parts = {"with_norm": True, "with_residual": False, "epsilon": 1e-5}
    y, dx, *rest = run_projection(projection, inputs, grad_out, impl="native", **parts)
    assert y.shape == (3, 0, 7)
    assert dx.shape == (3, 0, 20)
    assert not any(gradient.any() for gradient in rest)
    inputs, grad_out = make_inputs(0, 20, 9)
    _, _, *rest = run(residual_mlp, inputs, grad_out, impl="native")
    assert not any(gradient.any() for gradient in rest)


@pytest.mark.parametrize("size", [20, 64])
def test_gradients_have_the_same_bits_with_any_number_of_threads(size):
    threads, results = torch.get_num_threads(), []
    linear, linear_grad = make_projection(301, size, size)
    mlp_inputs, mlp_grad = make_inputs(301, size, 2 * size)
    parts = {"with_norm": True, "with_residual": True, "epsilon": 1e-5}
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            linears = run_projection(projection, linear, linear_grad, impl="native", **parts)
            results.append([*linears, *run(residual_mlp, mlp_inputs, mlp_grad, impl="native")])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


BAD_ROWS = [
    ({"x": torch.zeros(4, 8)}, r"x \(4, 8\) and weight \(32, 16\) must be"),
    ({"bias": torch.zeros(16)}, r"bias \(16,\) must be \(32,\)"),
    ({"residual": torch.zeros(32)}, r"residual \(32,\) must be \(4, 32\)"),
    ({"norm": (torch.ones(16), torch.zeros(8))}, r"norm's shift \(8,\) must be \(16,\)"),
    ({"impl": "natural"}, "impl='natural' must be one of auto"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ROWS)
def test_rows_that_do_not_fit_are_named(changes, message):
    arguments = {"x": torch.zeros(4, 16), "weight": torch.zeros(32, 16), "bias": torch.zeros(32)}
    with pytest.raises(ValueError, match=message):
        projection(**(arguments | changes))


def test_an_mlp_leads_back_to_its_width():
    inputs, _ = make_inputs(3, 16, 32)
    inputs[5], inputs[6] = torch.zeros(48, 32), torch.zeros(48)
    with pytest.raises(ValueError, match=r"out_weight \(48, 32\) must lead back to 16"):
        residual_mlp(*inputs)


def test_the_default_dtype_is_nobodys_business():
    inputs, grad_out = make_inputs(5, 16, 32)
    expected = run(residual_mlp, inputs, grad_out, impl="native")
    torch.set_default_dtype(torch.float64)
    try:
        actual = run(residual_mlp, inputs, grad_out, impl="native")
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, actual, expected))
