"""Many small networks that look at images, as one: patches, batched products, own gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KERNEL, STRIDE = 4, 2  # of every convolution
MOST_CONVOLUTIONS = 3
CHUNK = 8  # networks that are passed together: so few that their patches stay in a CPU's cache


@dataclass(frozen=True)
class Convolution:
    """What one convolution reads and gives, without a border around it."""

    rows: int
    columns: int
    channels: int
    filters: int

    @property
    def out_rows(self) -> int:
        """Rows of what it gives."""
        return (self.rows - KERNEL) // STRIDE + 1

    @property
    def out_columns(self) -> int:
        """Columns of what it gives."""
        return (self.columns - KERNEL) // STRIDE + 1

    @property
    def patch(self) -> int:
        """Numbers that one place of what it gives is made from."""
        return KERNEL * KERNEL * self.channels

    def patches(self, images: Tensor) -> Tensor:
        """Where the kernel looks in images (M, R, rows * columns * channels).

        Returns:
            (M, R * out_rows * out_columns, patch).
        """
        channels = self.channels
        rows = images.reshape(-1, self.rows, self.columns * channels)
        # A row of a patch is in one piece.
        windows = rows.unfold(2, KERNEL * channels, STRIDE * channels).unfold(1, KERNEL, STRIDE)
        return windows.transpose(3, 4).reshape(len(images), -1, self.patch)

    def images(self, patches: Tensor) -> Tensor:
        """Sum patches where they overlap: `patches` transposed, (M, R * places, patch)."""
        shape = (-1, self.out_rows, self.out_columns, KERNEL, KERNEL, self.channels)
        parts = patches.view(shape)
        images = patches.new_zeros(len(parts), self.rows, self.columns, self.channels)
        for row in range(KERNEL):
            for column in range(KERNEL):
                rows = slice(row, row + STRIDE * self.out_rows - 1, STRIDE)
                columns = slice(column, column + STRIDE * self.out_columns - 1, STRIDE)
                images[:, rows, columns] += parts[:, :, :, row, column]
        return images


class StackedCNN:
    """`M` convolutional networks with parameters of their own, for small images.

    Up to three convolutions of 4 x 4 in steps of 2, as long as there are 4 rows and columns, then
    perceptrons; rectified linear units everywhere, and a linear layer at last. Each layer is a
    batched product with the patches that it looks at, and gradients are reckoned by hand.

    Args:
        num_networks: `M`.
        shape: Rows, columns and channels of an image.
        filters: Of the first convolution; the others have twice as many.
        sizes: Width of each hidden layer after the convolutions, and of the output.
        device: Where they live.

    Attributes:
        parameters: Of each layer the weight, (M, in, out), and the bias, (M, 1, out). A
            convolution's weight reads patches, (row, column, channel).
        gradients: The same, as left by `backward`.
    """

    def __init__(
        self,
        num_networks: int,
        shape: tuple[int, ...],
        *,
        filters: int,
        sizes: Sequence[int],
        device: torch.device,
    ) -> None:
        self.shape = shape
        self.convolutions = _convolutions(shape, filters)
        flat = math.prod(shape)
        fans = []
        for convolution in self.convolutions:
            fans.append((convolution.patch, convolution.filters))
            flat = convolution.out_rows * convolution.out_columns * convolution.filters
        fans += zip((flat, *sizes[:-1]), sizes, strict=True)
        self.parameters: list[Tensor] = []
        for fan_in, fan_out in fans:
            self.parameters.append(torch.zeros(num_networks, fan_in, fan_out, device=device))
            self.parameters.append(torch.zeros(num_networks, 1, fan_out, device=device))
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]

    @property
    def num_networks(self) -> int:
        """`M`."""
        return len(self.parameters[0])

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (M, in, out) and bias (M, 1, out) of each layer."""
        return list(zip(self.parameters[::2], self.parameters[1::2], strict=True))

    def draw(self, generator: torch.Generator, *, input_norm: float, output_scale: float) -> None:
        """Draw fresh weights, normal and so that signals keep their size; biases are 0.

        As He et al. 2015 (arXiv 1502.01852): rectified units pass on half of the variance.

        Args:
            generator: Draws them.
            input_norm: Typical norm of an image.
            output_scale: Of the outputs, relative to that of a hidden unit.
        """
        pixel = input_norm / math.sqrt(math.prod(self.shape))
        for index, (weight, bias) in enumerate(self.layers):
            scale = math.sqrt(2 / weight.shape[1])
            scale *= 1 / pixel if index == 0 else 1.0
            scale *= output_scale if index == len(self.layers) - 1 else 1.0
            noise = torch.randn(weight.shape, generator=generator, device=weight.device)
            weight.copy_(noise.mul_(scale))
            bias.zero_()

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Pass R images through each network.

        Args:
            inputs: (M, R, rows, columns, channels).

        Returns:
            The inputs, what every hidden layer gives and the outputs, (M, R, ...) each.
        """
        num_networks, num_rows = inputs.shape[:2]
        passed = [inputs.flatten(2)]
        for index, (weight, _) in enumerate(self.layers):
            width = self._places(index) * weight.shape[2]
            passed.append(weight.new_empty(num_networks, num_rows, width))
        for first in range(0, num_networks, CHUNK):
            part = slice(first, first + CHUNK)
            for index, (weight, bias) in enumerate(self.layers):
                read = self._read(index, passed[index][part])
                values = passed[index + 1][part].view(*read.shape[:2], weight.shape[2])
                torch.baddbmm(bias[part], read, weight[part], out=values)
                if index < len(self.layers) - 1:
                    values.relu_()
        return passed

    def backward(self, passed: Sequence[Tensor], gradient: Tensor) -> None:
        """Leave in `gradients` those of a loss which is summed over the R images of each network.

        Args:
            passed: As `forward` gave it, with the present parameters; outputs are not read.
            gradient: By the outputs, and shaped like them.
        """
        layers = self.layers
        for first in range(0, self.num_networks, CHUNK):
            part = slice(first, first + CHUNK)
            flowing = gradient[part]
            for index in reversed(range(len(layers))):
                weight, _ = layers[index]
                weight_slot, bias_slot = (
                    slot[part] for slot in self.gradients[2 * index : 2 * index + 2]
                )
                read = self._read(index, passed[index][part])
                flowing = flowing.reshape(*read.shape[:2], weight.shape[2])
                torch.bmm(read.transpose(1, 2), flowing, out=weight_slot)
                torch.sum(flowing, dim=1, keepdim=True, out=bias_slot)
                if index > 0:
                    flowing = torch.bmm(flowing, weight[part].transpose(1, 2))
                    if index < len(self.convolutions):
                        flowing = self.convolutions[index].images(flowing)
                    given = passed[index][part]
                    flowing = flowing.view(given.shape).mul_(given > 0)

    def _read(self, index: int, given: Tensor) -> Tensor:
        """What the product of a layer reads of what it is given (M, R, ...), (M, rows, in)."""
        if index < len(self.convolutions):
            return self.convolutions[index].patches(given)
        return given

    def _places(self, index: int) -> int:
        """How often the product of a layer is taken for an image."""
        if index < len(self.convolutions):
            convolution = self.convolutions[index]
            return convolution.out_rows * convolution.out_columns
        return 1


def _convolutions(shape: tuple[int, ...], filters: int) -> list[Convolution]:
    """As many as the image has room for."""
    rows, columns, channels = shape
    found: list[Convolution] = []
    while min(rows, columns) >= KERNEL and len(found) < MOST_CONVOLUTIONS:
        many = filters if not found else 2 * filters
        found.append(Convolution(rows, columns, channels, many))
        rows, columns, channels = found[-1].out_rows, found[-1].out_columns, many
    return found
