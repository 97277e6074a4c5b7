"""N networks at once are N networks, by plain PyTorch and by the C++ kernels."""

import pytest
import torch
from fastad_kernels import StackedAdam, StackedMLP, native, stacked
from torch import Tensor, nn

from tests.kernels.tolerance import NUM_DRAWS, assert_as_exact_as_plain

SIZES = (3, 5, 4, 2)
NATIVE_SIZES = (3, 32, 16, 2)
needs_kernels = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack(num_networks: int = 6, sizes: tuple[int, ...] = SIZES, impl="reference") -> StackedMLP:
    network = StackedMLP(num_networks, sizes, device=torch.device("cpu"), impl=impl)
    network.draw(generator(), input_norm=1.0, output_scale=1.0)
    for parameter in network.parameters:  # biases too
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator(1))
    return network


def alone(network: StackedMLP, index: int) -> nn.Sequential:
    """PyTorch's own layers with the parameters of one network."""
    layers: list[nn.Module] = []
    for weight, bias in network.layers:
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight[index].t().clone(), bias[index, 0].clone()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def gradients_of(model: nn.Sequential) -> list[Tensor]:
    """In the order and the shapes of `StackedMLP.gradients`, without their first axis."""
    *hidden, last = [layer for layer in model if isinstance(layer, nn.Linear)]
    pairs = [(layer.weight.grad.t(), layer.bias.grad[None]) for layer in hidden]
    return [part for pair in [*pairs, (last.weight.grad, last.bias.grad[None])] for part in pair]


def test_outputs_and_gradients_of_all_are_those_of_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stacked, "CHUNK", 4)  # no divisor of 6
    network = stack()
    inputs, gradient = (
        torch.randn(6, 7, width, generator=generator(seed)) for seed, width in ((2, 3), (3, 2))
    )
    passed = network.forward(inputs)
    outputs = passed[-1].clone()
    network.backward(passed, gradient)
    for index in range(6):
        model = alone(network, index)
        alone_outputs = model(inputs[index])
        torch.testing.assert_close(outputs[index], alone_outputs)
        alone_outputs.backward(gradient[index])
        mine = [part[index] for part in network.gradients]
        torch.testing.assert_close(mine, gradients_of(model))


def test_backward_replaces_the_gradient_that_was_there() -> None:
    network = stack()
    for part in network.gradients:
        part.fill_(float("nan"))
    passed = network.forward(torch.ones(6, 1, 3))
    network.backward(passed, torch.zeros(6, 1, 2))
    assert all((part == 0).all() for part in network.gradients)


def test_an_optimiser_of_all_is_one_of_each_and_clips_each_gradient_by_its_own_norm() -> None:
    network, learning_rate = stack(3), 0.1
    start = [parameter.clone() for parameter in network.parameters]
    steps = [[torch.randn(p.shape, generator=generator(4 + i)) for p in start] for i in range(4)]
    for gradients in steps:
        for part in gradients:
            part[1] *= 1e-3  # far below the limit, whatever its neighbours
    together = StackedAdam(network.parameters, learning_rate=learning_rate, max_grad_norm=0.5)
    for gradients in steps:
        together.step([part.clone() for part in gradients])
    for index in range(3):
        parameters = [nn.Parameter(parameter[index].clone()) for parameter in start]
        adam = torch.optim.Adam(parameters, learning_rate, betas=(0.9, 0.99), eps=1e-5)
        for gradients in steps:
            for parameter, part in zip(parameters, gradients, strict=True):
                parameter.grad = part[index].clone()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            adam.step()
        for mine, parameter in zip(network.parameters, parameters, strict=True):
            torch.testing.assert_close(mine[index], parameter.detach())


def test_weights_are_drawn_so_that_hidden_units_begin_with_the_same_variance() -> None:
    network = StackedMLP(2, (50, 400, 400), device=torch.device("cpu"))
    network.draw(generator(), input_norm=2.0, output_scale=0.1)
    (first, bias), (second, _) = network.layers
    assert (bias == 0).all()
    assert first.std().item() == pytest.approx(1 / 2, rel=0.03)
    assert second.std().item() == pytest.approx(0.1 / 20, rel=0.03)


def learned(network: StackedMLP, inputs: Tensor, gradient: Tensor) -> list[Tensor]:
    """Activations, outputs and gradients, of the dtype of the arguments."""
    network.parameters, network.gradients = (
        [x.to(inputs.dtype) for x in tensors] for tensors in (network.parameters, network.gradients)
    )
    passed = network.forward(inputs)
    seen = [x.clone() for x in passed[1:]]
    network.backward(passed, gradient)
    return [*seen, *network.gradients]


def made_up(num_networks: int, num_rows: int, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inputs, and gradients by the outputs."""
    shape = (num_networks, num_rows)
    return (
        torch.randn(*shape, sizes[0], generator=generator(2)),
        torch.randn(*shape, sizes[-1], generator=generator(3)),
    )


@needs_kernels
@pytest.mark.parametrize("sizes", [(18, 64, 64, 6), (3, 16, 1), (5, 96, 32, 16, 2)])
@pytest.mark.parametrize("num_rows", [1, 4, 80])
def test_kernels_are_as_exact_as_plain_pytorch(sizes: tuple[int, ...], num_rows: int) -> None:
    num_networks = 8 * NUM_DRAWS  # of a single row each, perhaps
    inputs, gradient = made_up(num_networks, num_rows, sizes)
    ours = learned(stack(num_networks, sizes, "auto"), inputs, gradient)
    plain = learned(stack(num_networks, sizes), inputs, gradient)
    exact = learned(stack(num_networks, sizes), inputs.double(), gradient.double())
    for number, results in enumerate(zip(ours, plain, exact, strict=True)):
        assert_as_exact_as_plain(results[0], [results[1]], results[2], f"result {number}")


@needs_kernels
def test_bits_depend_on_no_neighbour_and_no_number_of_threads() -> None:
    inputs, gradient = made_up(6, 7, NATIVE_SIZES)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        every = learned(stack(6, NATIVE_SIZES, "auto"), inputs, gradient)
    finally:
        torch.set_num_threads(threads)
    network = stack(6, NATIVE_SIZES, "auto")
    network.parameters = [parameter[4:5].clone() for parameter in network.parameters]
    network.gradients = [part[4:5].clone() for part in network.gradients]
    alone = learned(network, inputs[4:5], gradient[4:5])
    assert all(torch.equal(mine[4:5], its) for mine, its in zip(every, alone, strict=True))
    outputs = stack(6, NATIVE_SIZES, "auto").forward(inputs[:, 5:6])[-1]
    assert torch.equal(outputs[:, 0], every[2][:, 5])


@pytest.mark.parametrize("impl", ["reference", pytest.param("auto", marks=needs_kernels)])
def test_what_passes_can_be_left_in_the_middle_of_other_tensors(impl: str) -> None:
    inputs, _ = made_up(6, 7, NATIVE_SIZES)
    apart = inputs.transpose(0, 1).contiguous().transpose(0, 1)
    rooms = [torch.full((6, 3, 7, width), torch.nan) for width in NATIVE_SIZES[1:]]
    network = stack(6, NATIVE_SIZES, impl)
    passed = network.forward(apart, [room[:, 1] for room in rooms])
    wanted = network.forward(inputs)
    assert all(torch.equal(*pair) for pair in zip(passed, wanted, strict=True))
    for room, values in zip(rooms, wanted[1:], strict=True):
        assert torch.equal(room[:, 1], values)
        assert room[:, ::2].isnan().all()


@pytest.mark.parametrize("impl", ["reference", pytest.param("auto", marks=needs_kernels)])
def test_gradients_of_several_passes_are_those_of_their_rows_in_one(impl: str) -> None:
    inputs, gradient = made_up(6, 12, NATIVE_SIZES)
    network = stack(6, NATIVE_SIZES, impl)
    passed = network.forward(inputs)
    # Three passes of four rows, those of a pass in one piece.
    apart = [x.unflatten(1, (3, 4)).transpose(0, 1).contiguous().transpose(0, 1) for x in passed]
    network.backward(passed, gradient)
    wanted = [part.clone() for part in network.gradients]
    network.backward(apart, gradient.unflatten(1, (3, 4)))
    assert all(torch.equal(*pair) for pair in zip(network.gradients, wanted, strict=True))


@needs_kernels
def test_tanh_is_off_by_two_rounding_steps_at_most_anywhere() -> None:
    network = StackedMLP(1, (1, 16, 1), device=torch.device("cpu"))
    network.parameters[0].fill_(1.0)
    large = torch.tensor([15.0, 88.0, 3e38, torch.inf])
    sizes = torch.cat((torch.logspace(-30, 1, 50_001), torch.linspace(0, 10, 50_001), large))
    inputs = torch.cat((sizes, -sizes))
    hidden = network.forward(inputs[None, :, None])[1][0, :, 0].double()
    exact = inputs.double().tanh()
    assert ((hidden - exact).abs() <= 1.5 * 2**-23 * exact.abs()).all()
    assert network.forward(torch.full((1, 1, 1), torch.nan))[1].isnan().all()


@needs_kernels
def test_what_the_kernels_cannot_read_is_refused() -> None:
    network = stack(6, NATIVE_SIZES, "auto")
    inputs, gradient = made_up(6, 7, NATIVE_SIZES)
    for wrong in (inputs[:5], inputs[..., :2], inputs.double()):
        with pytest.raises(ValueError, match=r"networks of 6 x \[3, 32, 16, 2\] cannot pass"):
            network.forward(wrong)
    passed = network.forward(inputs)
    with pytest.raises(ValueError, match="cannot pass"):
        network.forward(inputs, [x[:, :6] for x in passed[1:]])
    with pytest.raises(ValueError, match="a gradient is"):
        network.backward(passed, gradient[:, :6])


def test_what_the_kernels_do_not_know_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    for sizes in (SIZES, (3, 2), (3, 24, 2)):
        assert stack(2, sizes, "auto")._kernels is None
    monkeypatch.setattr(native, "why_unavailable", lambda: "no compiler")
    assert stack(2, NATIVE_SIZES, "auto")._kernels is None
