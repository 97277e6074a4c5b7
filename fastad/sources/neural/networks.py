"""Many small networks of one shape as one: stacked parameters, batched products, own gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]  # weight (M, in, out) and bias (M, 1, out) of each


class StackedMLP:
    """`M` perceptrons with parameters of their own: layers of tanh, then a linear one.

    All parameters of a network are one row of `flat`, so that whatever is done elementwise, such as
    an optimiser's step or a copy, is one operation. Gradients are reckoned by hand from the
    activations of a forward pass: a learner that acted need not pass forward again.

    Args:
        num_networks: `M`.
        sizes: Width of the input, of each hidden layer, and of the output.
        device: Where they live.

    Attributes:
        flat: (M, P) float32, all parameters.
        gradient: (M, P), as left by `backward`.
    """

    def __init__(self, num_networks: int, sizes: Sequence[int], *, device: torch.device) -> None:
        self.sizes = tuple(sizes)
        width = sum((fan_in + 1) * fan_out for fan_in, fan_out in self._shapes)
        self.flat = torch.zeros(num_networks, width, device=device)
        self.gradient = torch.zeros_like(self.flat)
        self.layers = self._views(self.flat)
        self._slots = self._views(self.gradient)

    def draw(self, generator: torch.Generator, *, input_norm: float, output_scale: float) -> None:
        """Draw fresh weights, normal and so that hidden units begin with variance 1; biases are 0.

        Args:
            generator: Draws them.
            input_norm: Typical norm of an input.
            output_scale: Standard deviation of the outputs, for hidden units of 1 or -1.
        """
        for index, (weight, bias) in enumerate(self.layers):
            norm = input_norm if index == 0 else math.sqrt(weight.shape[1])
            scale = output_scale if index == len(self.layers) - 1 else 1.0
            noise = torch.randn(weight.shape, generator=generator, device=weight.device)
            weight.copy_(noise.mul_(scale / norm))
            bias.zero_()

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Pass R inputs through each network.

        Args:
            inputs: (M, R, in).

        Returns:
            The inputs, the activations of every hidden layer and the outputs, (M, R, ...) each.
        """
        passed = [inputs]
        for index, (weight, bias) in enumerate(self.layers):
            values = torch.baddbmm(bias, passed[-1], weight)
            passed.append(values if index == len(self.layers) - 1 else values.tanh_())
        return passed

    def backward(self, passed: Sequence[Tensor], gradient: Tensor) -> None:
        """Leave in `gradient` that of a loss which is summed over the R inputs of each network.

        Args:
            passed: As `forward` gave it, with the present parameters; outputs are not read.
            gradient: (M, R, out) of the loss by the outputs.
        """
        for index in reversed(range(len(self.layers))):
            weight_slot, bias_slot = self._slots[index]
            inputs = passed[index]
            weight_slot.baddbmm_(inputs.transpose(1, 2), gradient, beta=0)
            torch.sum(gradient, dim=1, keepdim=True, out=bias_slot)
            if index > 0:
                gradient = torch.bmm(gradient, self.layers[index][0].transpose(1, 2))
                gradient = gradient.addcmul_(gradient * inputs, inputs, value=-1)

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def _views(self, flat: Tensor) -> Layers:
        """The weights and biases in rows of parameters, (M, P)."""
        layers, first = [], 0
        for fan_in, fan_out in self._shapes:
            middle, last = first + fan_in * fan_out, first + (fan_in + 1) * fan_out
            weight = flat[:, first:middle].view(len(flat), fan_in, fan_out)
            layers.append((weight, flat[:, middle:last].view(len(flat), 1, fan_out)))
            first = last
        return layers


class StackedAdam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980), gradients clipped per network.

    Adam works element by element, so that one optimiser for all networks is one for each.

    Args:
        flat: (M, P) parameters, changed by `step`.
        learning_rate: Step size.
        max_grad_norm: Longer gradients of a network are cut to this.
        betas: Decay of the two means.
        eps: Added to the root of the second.
    """

    def __init__(
        self,
        flat: Tensor,
        *,
        learning_rate: float,
        max_grad_norm: float,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-5,
    ) -> None:
        self.flat, self.max_grad_norm = flat, max_grad_norm
        self._adam = torch.optim.Adam([flat], lr=learning_rate, betas=betas, eps=eps, fused=True)

    def step(self, gradient: Tensor) -> None:
        """Take a step against `gradient` (M, P), which is clipped in place."""
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient.mul_((self.max_grad_norm / norm.clamp_min_(1e-8)).clamp_max_(1.0))
        self.flat.grad = gradient
        self._adam.step()
