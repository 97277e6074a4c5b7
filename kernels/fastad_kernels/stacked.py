"""Many small networks of one shape as one: stacked parameters, batched products, own gradients."""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastad_kernels.drawing import Implementation

if TYPE_CHECKING:
    from fastad_kernels.native import NativeStack

CHUNK = 64  # networks whose gradients are reckoned together: so few that they stay in a CPU's cache


class StackedMLP:
    """`M` perceptrons with parameters of their own: layers of tanh, then a linear one.

    Gradients are reckoned by hand from the activations of a forward pass: a learner that acted need
    not pass forward again.

    Args:
        num_networks: `M`.
        sizes: Width of the input, of each hidden layer, and of the output.
        device: Where they live.
        impl: "auto" takes the C++ kernels where they can be used, to the same results but for
            rounding. They read the parameters where these lie at the first pass.

    Attributes:
        parameters: Of each layer the weight, (M, in, out), and the bias, (M, 1, out). The last
            weight is (M, out, in): products with a narrow last dimension are up to three times as
            slow.
        gradients: The same, as left by `backward`.
    """

    def __init__(
        self,
        num_networks: int,
        sizes: Sequence[int],
        *,
        device: torch.device,
        impl: Implementation = "auto",
    ) -> None:
        self.impl = impl
        self.parameters: list[Tensor] = []
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            is_last = layer == len(sizes) - 2
            shape = (fan_out, fan_in) if is_last else (fan_in, fan_out)
            self.parameters.append(torch.zeros(num_networks, *shape, device=device))
            self.parameters.append(torch.zeros(num_networks, 1, fan_out, device=device))
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]

    @property
    def num_networks(self) -> int:
        """`M`."""
        return len(self.parameters[0])

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (M, in, out) and bias (M, 1, out) of each layer, as views."""
        weights = [*self.parameters[:-2:2], self.parameters[-2].transpose(1, 2)]
        return list(zip(weights, self.parameters[1::2], strict=True))

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

    def forward(self, inputs: Tensor, out: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Pass R inputs through each network.

        Args:
            inputs: (M, R, in).
            out: Where to leave activations and outputs, (M, R, ...) each without gaps between a
                network's rows; None: in new ones.

        Returns:
            The inputs, the activations of every hidden layer and the outputs, (M, R, ...) each.
        """
        if self._kernels is not None:
            return self._kernels.forward(inputs, out)
        passed = [inputs]
        for index, (weight, bias) in enumerate(self.layers):
            values = torch.baddbmm(bias, passed[-1], weight)
            if index < len(self.layers) - 1:
                values.tanh_()
            passed.append(values if out is None else out[index].copy_(values))
        return passed

    def backward(self, passed: Sequence[Tensor], gradient: Tensor) -> None:
        """Leave in `gradients` those of a loss which is summed over the R inputs of each network.

        Args:
            passed: As `forward` gave it, with the present parameters; hidden activations may be
                used up, outputs are not read. What came of T passes may be (M, T, R, ...).
            gradient: By the outputs, and shaped like them.
        """
        if self._kernels is not None:
            self._kernels.backward(passed, gradient, self.gradients)
            return
        passed = [x.flatten(1, -2) for x in passed]
        gradient, layers = gradient.flatten(1, -2), self.layers
        for first in range(0, self.num_networks, CHUNK):
            part = slice(first, first + CHUNK)
            flowing = gradient[part]
            for index in reversed(range(len(layers))):
                inputs = passed[index][part]
                weight_slot, bias_slot = (
                    slot[part] for slot in self.gradients[2 * index : 2 * index + 2]
                )
                factors = (inputs, flowing) if index < len(layers) - 1 else (flowing, inputs)
                torch.bmm(factors[0].transpose(1, 2), factors[1], out=weight_slot)
                torch.sum(flowing, dim=1, keepdim=True, out=bias_slot)
                if index > 0:
                    flowing = torch.bmm(flowing, layers[index][0][part].transpose(1, 2))
                    flowing.addcmul_(flowing, inputs.square_(), value=-1)  # the slope of tanh

    @cached_property
    def _kernels(self) -> "NativeStack | None":
        """The C++ kernels, where they do it; made at the first use, which may compile them."""
        if self.impl == "reference" or not self.parameters[0].is_cpu:
            return None
        from fastad_kernels import native

        if native.why_unavailable() is None and native.NativeStack.takes(self.parameters):
            return native.NativeStack(self.parameters)
        return None


class StackedAdam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980), gradients clipped per network.

    Adam works element by element, so that one optimiser for all networks is one for each.

    Args:
        parameters: (M, ...) each, changed by `step`.
        learning_rate: Step size.
        max_grad_norm: Longer gradients of a network are cut to this.
        betas: Decay of the two means.
        eps: Added to the root of the second.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        learning_rate: float,
        max_grad_norm: float,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-5,
    ) -> None:
        self.parameters, self.max_grad_norm = list(parameters), max_grad_norm
        self._adam = torch.optim.Adam(
            self.parameters, lr=learning_rate, betas=betas, eps=eps, fused=True
        )

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take a step against `gradients`, shaped like the parameters and clipped in place."""
        norms = [torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True) for g in gradients]
        norm = torch.linalg.vector_norm(torch.cat(norms, dim=1), dim=1, keepdim=True)
        scale = (self.max_grad_norm / norm.clamp_min_(1e-8)).clamp_max_(1.0)  # (M, 1, 1)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.mul_(scale)
        self._adam.step()
