"""N convolutional networks at once are N networks of PyTorch's own layers."""

import pytest
import torch
from fastad_kernels import StackedCNN, stacked_cnn
from torch import Tensor, nn

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack(num_networks: int, shape: tuple[int, int, int]) -> StackedCNN:
    """In double precision, so that rounding hides nothing."""
    network = StackedCNN(num_networks, shape, filters=4, sizes=(6, 5, 3), device=CPU)
    network.draw(generator(), input_norm=1.0, output_scale=1.0)
    for parameter in network.parameters:  # biases too
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator(1))
    network.parameters, network.gradients = (
        [x.double() for x in tensors] for tensors in (network.parameters, network.gradients)
    )
    return network


def alone(network: StackedCNN, index: int) -> nn.Sequential:
    """PyTorch's own layers with the parameters of one network; images channels first."""
    layers: list[nn.Module] = []
    num_convolutions = len(network.convolutions)
    for number, (weights, biases) in enumerate(network.layers):
        weight, bias = weights[index], biases[index, 0].clone()
        layer: nn.Conv2d | nn.Linear
        if number < num_convolutions:
            channels = weight.shape[0] // 16
            layer = nn.Conv2d(channels, len(bias), 4, stride=2, dtype=torch.float64)
            layer.weight.data = weight.view(4, 4, channels, -1).permute(3, 2, 0, 1).clone()
        else:
            if number == num_convolutions:
                layers.append(ChannelsLast())
            layer = nn.Linear(*weight.shape, dtype=torch.float64)
            layer.weight.data = weight.t().clone()
        layer.bias.data = bias
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ChannelsLast(nn.Module):
    """Flattens images (n, channels, rows, columns) as the stacked networks do."""

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).flatten(1)


def gradients_of(model: nn.Sequential) -> list[Tensor]:
    """In the order and the shapes of `StackedCNN.gradients`, without their first axis."""
    found = []
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            found.append(layer.weight.grad.permute(2, 3, 1, 0).flatten(0, 2))
            found.append(layer.bias.grad[None])
        elif isinstance(layer, nn.Linear):
            found += [layer.weight.grad.t(), layer.bias.grad[None]]
    return found


@pytest.mark.parametrize(
    ("shape", "num_convolutions"),
    [((16, 24, 3), 2), ((33, 29, 1), 3), ((9, 4, 3), 1), ((3, 7, 3), 0)],
)
def test_outputs_and_gradients_of_all_are_those_of_each_alone(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], num_convolutions: int
) -> None:
    monkeypatch.setattr(stacked_cnn, "CHUNK", 2)  # no divisor of 5
    network = stack(5, shape)
    assert len(network.convolutions) == num_convolutions
    images = torch.randn(5, 7, *shape, generator=generator(2), dtype=torch.float64)
    gradient = torch.randn(5, 7, 3, generator=generator(3), dtype=torch.float64)
    for part in network.gradients:
        part.fill_(float("nan"))  # is replaced
    passed = network.forward(images)
    network.backward(passed, gradient)
    for index in range(5):
        model = alone(network, index)
        outputs = model(images[index].permute(0, 3, 1, 2))
        torch.testing.assert_close(passed[-1][index], outputs)
        outputs.backward(gradient[index])
        mine = [part[index] for part in network.gradients]
        torch.testing.assert_close(mine, gradients_of(model))


def test_weights_are_drawn_so_that_layers_give_what_is_as_large_as_what_they_get() -> None:
    network = StackedCNN(4, (16, 24, 3), filters=64, sizes=(256, 8), device=CPU)
    network.draw(generator(), input_norm=0.5 * (16 * 24 * 3) ** 0.5, output_scale=0.1)
    images = 0.5 * torch.randn(4, 50, 16, 24, 3, generator=generator(1))
    *hidden, outputs = network.forward(images)[1:]
    # Mean squares of what is rectified: half of the variance of 2.
    for values in hidden:
        assert values.square().mean().item() == pytest.approx(1.0, rel=0.15)
    assert outputs.std().item() == pytest.approx(0.1 * 2**0.5, rel=0.15)
