"""What the frozen model remembers of N environments, kept or recomputed: the same logits."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.model.cache import ModelCache
from fastad.model.kernels import draw
from fastad.model.transformer import Transformer

Draw = Callable[[Tensor, Tensor], Tensor]  # see `fastad_kernels.draw`


class Memory(Protocol):
    """Everything that `N` environments have shown the model so far."""

    @property
    def draw(self) -> Draw:
        """What draws from its predictions, with kernels where the model has some."""
        ...

    def predict(self, steps: Steps) -> Tensor:
        """Add the newest step (N, 1) and return its logits (N, A).

        What is kept of the step must be copied: it is the agent's own memory.
        """
        ...

    def forget(self, mask: Tensor) -> None:
        """Clear the context of the environments in `mask`, (N,) bool, and of no other."""
        ...


class CachedMemory:
    """Keys and values of the last tokens in rings; one step costs the same at any length.

    Args:
        model: In evaluation mode; weights that change later may not be seen.
        num_envs: `N`.
        device: Of the model.
        compile: Compile PyTorch's step with `torch.compile`, which takes a while at the first one,
            instead of taking the kernels for whole steps where there are any.
        untracked: Keep lengths on the device alone, so that every step performs the same
            operations on the same memory and can be replayed as a CUDA graph.
    """

    def __init__(
        self,
        model: Transformer,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        compile: bool = False,
        untracked: bool = False,
    ) -> None:
        self.cache = ModelCache(
            model.config, num_envs, device=device, kernels=model.kernels,
            frozen=None if compile else model.freeze(),
        )  # fmt: skip
        if untracked:
            self.cache.untrack()
        frozen = self.cache.frozen
        self.draw: Draw = draw if frozen is None else frozen.draw
        # Not the module's own call, which looks for hooks at every step.
        self.forward: Callable[[Steps, ModelCache], Tensor] = model.forward
        if compile:
            self.forward = torch.compile(model)

    def predict(self, steps: Steps) -> Tensor:
        """See `Memory.predict`."""
        return self.forward(steps, self.cache).squeeze(1)

    def forget(self, mask: Tensor) -> None:
        """See `Memory.forget`."""
        self.cache.forget(mask)


class RecomputedMemory:
    """The steps that can influence a prediction, from which it is computed every time.

    A query sees `W` tokens, but through L layers L * (W - 1) + 1 of them reach it: that many are
    kept, per environment.
    """

    draw = staticmethod(draw)

    def __init__(self, model: Transformer, num_envs: int) -> None:
        self.model = model
        self.capacity = -(-model.config.receptive_field // model.config.tokens_per_step)
        self.lengths = torch.zeros(num_envs, dtype=torch.int64)  # on the host
        self.steps: list[Steps] = []  # the newest `capacity` of them, each (N, 1)

    def predict(self, steps: Steps) -> Tensor:
        """See `Memory.predict`."""
        self.lengths = (self.lengths + 1).clamp(max=self.capacity)
        total = int(self.lengths.max())
        self.steps = [*self.steps, _copied(steps)][-total:]
        logits = steps.previous_reward.new_empty((len(self.lengths), self.model.num_actions))
        whole = _joined(self.steps)
        # Environments with equally long contexts are recomputed together.
        for length in self.lengths.unique().tolist():
            rows = (self.lengths == length).to(logits.device)
            context = Steps(*(field[rows, total - length :] for field in whole))
            logits[rows] = self.model(context)[:, -1]
        return logits

    def forget(self, mask: Tensor) -> None:
        """See `Memory.forget`."""
        self.lengths = self.lengths.masked_fill(mask.cpu(), 0)


class RecordedMemory:
    """Another memory, and what it was shown and predicted.

    Args:
        memory: That predicts.
        length: Newest steps to keep (default: all).
    """

    def __init__(self, memory: Memory, length: int | None = None) -> None:
        self.memory, self.draw = memory, memory.draw
        self.steps: deque[Steps] = deque(maxlen=length)  # each (N, 1)
        self.logits: deque[Tensor] = deque(maxlen=length)  # each (N, A)

    def predict(self, steps: Steps) -> Tensor:
        """See `Memory.predict`."""
        self.steps.append(_copied(steps))
        self.logits.append(self.memory.predict(steps))
        return self.logits[-1]

    def forget(self, mask: Tensor) -> None:
        """See `Memory.forget`."""
        self.memory.forget(mask)

    def whole(self) -> Steps:
        """All steps that were kept, (N, T)."""
        return _joined(self.steps)


def _copied(steps: Steps) -> Steps:
    return Steps(*(field.clone() for field in steps))


def _joined(steps: Iterable[Steps]) -> Steps:
    return Steps(*(torch.cat(field, dim=1) for field in zip(*steps, strict=True)))
