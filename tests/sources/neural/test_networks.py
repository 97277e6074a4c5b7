"""N networks at once are N networks."""

import pytest
import torch
from torch import Tensor, nn

from fastad.sources.neural.networks import StackedAdam, StackedMLP

SIZES = (3, 5, 4, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack(num_networks: int = 6) -> StackedMLP:
    network = StackedMLP(num_networks, SIZES, device=torch.device("cpu"))
    network.draw(generator(), input_norm=1.0, output_scale=1.0)
    network.flat += 0.1 * torch.randn(network.flat.shape, generator=generator(1))  # biases too
    return network


def alone(network: StackedMLP, index: int) -> nn.Sequential:
    """PyTorch's own layers with the parameters of one network."""
    layers: list[nn.Module] = []
    for weight, bias in network.layers:
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight[index].t().clone(), bias[index, 0].clone()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def flat_gradient(model: nn.Sequential) -> Tensor:
    """In the order of `StackedMLP.flat`: weight (in, out), then bias, layer by layer."""
    parameters = [layer for layer in model if isinstance(layer, nn.Linear)]
    grads = [(layer.weight.grad, layer.bias.grad) for layer in parameters]
    return torch.cat([part.flatten() for w, b in grads for part in (w.t(), b)])


def test_outputs_and_gradients_of_all_are_those_of_each_alone() -> None:
    network = stack()
    inputs, gradient = (
        torch.randn(6, 7, width, generator=generator(seed)) for seed, width in ((2, 3), (3, 2))
    )
    passed = network.forward(inputs)
    network.backward(passed, gradient)
    for index in range(6):
        model = alone(network, index)
        outputs = model(inputs[index])
        torch.testing.assert_close(passed[-1][index], outputs)
        outputs.backward(gradient[index])
        torch.testing.assert_close(network.gradient[index], flat_gradient(model))


def test_backward_replaces_the_gradient_that_was_there() -> None:
    network = stack()
    network.gradient.fill_(float("nan"))
    passed = network.forward(torch.ones(6, 1, 3))
    network.backward(passed, torch.zeros(6, 1, 2))
    assert (network.gradient == 0).all()


def test_an_optimiser_of_all_is_one_of_each_and_clips_each_gradient_by_its_own_norm() -> None:
    network, learning_rate = stack(3), 0.1
    start = network.flat.clone()
    gradients = torch.randn(4, 3, start.shape[1], generator=generator(4))
    gradients[:, 1] *= 1e-3  # far below the limit, whatever its neighbours
    together = StackedAdam(network.flat, learning_rate=learning_rate, max_grad_norm=0.5)
    for gradient in gradients:
        together.step(gradient.clone())
    for index in range(3):
        parameters = nn.Parameter(start[index].clone())
        adam = torch.optim.Adam([parameters], learning_rate, betas=(0.9, 0.99), eps=1e-5)
        for gradient in gradients:
            parameters.grad = gradient[index].clone()
            nn.utils.clip_grad_norm_([parameters], 0.5)
            adam.step()
        torch.testing.assert_close(network.flat[index], parameters.detach())


def test_weights_are_drawn_so_that_hidden_units_begin_with_the_same_variance() -> None:
    network = StackedMLP(2, (50, 400, 400), device=torch.device("cpu"))
    network.draw(generator(), input_norm=2.0, output_scale=0.1)
    (first, bias), (second, _) = network.layers
    assert (bias == 0).all()
    assert first.std().item() == pytest.approx(1 / 2, rel=0.03)
    assert second.std().item() == pytest.approx(0.1 / 20, rel=0.03)
