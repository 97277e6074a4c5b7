"""N networks at once are N networks."""

import pytest
import torch
from torch import Tensor, nn

from fastad.sources.neural import networks
from fastad.sources.neural.networks import StackedAdam, StackedMLP

SIZES = (3, 5, 4, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack(num_networks: int = 6) -> StackedMLP:
    network = StackedMLP(num_networks, SIZES, device=torch.device("cpu"))
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
    monkeypatch.setattr(networks, "CHUNK", 4)  # no divisor of 6
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
