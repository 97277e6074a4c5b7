"""A step recorded as a CUDA graph: one launch instead of hundreds."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs", bound=tuple[Tensor, ...])
WARM_UP = 3  # steps before recording, in which libraries load kernels and choose among them


class GraphedStep(Generic[Outputs]):
    """`step(observation)`, run as it is at first, then recorded once and replayed.

    Every call is a true step, the first ones too. The step must read nothing on the host and
    update whatever it remembers in place (`fastad_kernels.testing.replay` shows that without a
    GPU); what it returns is copied before the next replay overwrites it.

    Args:
        step: From one tensor to a tuple of tensors.
        generators: All from which the step draws.
    """

    def __init__(
        self, step: Callable[[Tensor], Outputs], generators: Iterable[torch.Generator]
    ) -> None:
        self.step = step
        self.graph = torch.cuda.CUDAGraph()
        for generator in dict.fromkeys(generators):
            self.graph.register_generator_state(generator)
        self.stream = torch.cuda.Stream()
        self.calls = 0
        self.input: Tensor | None = None
        self.outputs: Outputs | None = None

    def __call__(self, observation: Tensor) -> Outputs:
        """Take one step."""
        self.calls += 1
        if self.calls <= WARM_UP:
            # On the stream that recording will use, as PyTorch asks for.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                outputs = self.step(observation)
            torch.cuda.current_stream().wait_stream(self.stream)
            return outputs
        if self.input is None:
            self.input = observation.clone()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.outputs = self.step(self.input)
        else:
            self.input.copy_(observation)
        self.graph.replay()
        assert self.outputs is not None
        return type(self.outputs)(*_copies(self.outputs))


def _copies(outputs: Iterable[Tensor]) -> list[Tensor]:
    return [output.clone() for output in outputs]
