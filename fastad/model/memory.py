"""What the frozen model remembers of N environments, kept or recomputed: the same logits."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.model.frozen import FrozenStep
from fastad.model.heads import Output
from fastad.model.kernels import RingCache, Sample, sample, softmax


class Memory(ABC):
    """Everything that `N` environments have shown the model so far."""

    has_kernels = False  # of its own, of whole steps: then others may take kernels beside it, too

    @abstractmethod
    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        """Add the newest step (N, 1) and return its logits (N, A).

        What is kept of the step must be copied: it is the agent's own memory.

        Args:
            steps: The newest.
            idle: The environments, (N,) bool, which the step is not added to: it leaves no trace
                in them, and their logits mean nothing.
        """

    def sample(self, steps: Steps, uniform: Tensor) -> Sample:
        """As `predict`, and draw from the softmax of the logits.

        Args:
            steps: The newest.
            uniform: In [0, 1), (N, 1) float32.
        """
        return sample(self.predict(steps), uniform)

    def softmax(self, logits: Tensor) -> Tensor:
        """Distributions (N, A) by logits (N, A), to the last bit as in `sample`."""
        return logits.softmax(dim=-1)

    @abstractmethod
    def take(self, steps: Steps) -> None:
        """Add the newest step (N, 1), after which nobody asks for its logits."""

    @abstractmethod
    def forget(self, mask: Tensor) -> None:
        """Clear the context of the environments in `mask`, (N,) bool, and of no other."""


class CachedMemory(Memory):
    """Keys and values of the last tokens in rings; one step costs the same at any length.

    Args:
        rings: Of all layers, which always hold the same positions.
        forward: The model's, which reads the rings and appends to them.
        frozen: If given, this decodes whole steps in one call; the rings are of its kind.
    """

    def __init__(
        self,
        rings: list[RingCache],
        forward: Callable[[Steps, "CachedMemory"], Output],
        *,
        frozen: FrozenStep | None = None,
    ) -> None:
        self.rings, self.forward, self.frozen = rings, forward, frozen
        self.has_kernels = frozen is not None
        self._idle: Tensor | None = None  # during a step which some are idle in

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        """See `Memory.predict`."""
        if idle is None:
            return self.forward(steps, self).policy.squeeze(1)
        before, self._idle = self.rings[0].lengths.clone(), idle
        logits = self.forward(steps, self).policy.squeeze(1)
        self._idle = None
        for ring in self.rings:
            ring.take_back(idle, before)
        return logits

    def sample(self, steps: Steps, uniform: Tensor) -> Sample:
        """See `Memory.sample`."""
        if self.frozen is None:
            return super().sample(steps, uniform)
        return self.frozen.sample(steps, self, uniform)

    def softmax(self, logits: Tensor) -> Tensor:
        """See `Memory.softmax`."""
        if self.frozen is None:
            return super().softmax(logits)
        return softmax(logits.unsqueeze(0), impl="auto").squeeze(0)

    def take(self, steps: Steps) -> None:
        """See `Memory.take`: whatever comes later needs the keys and values of all layers."""
        self.predict(steps)

    def forget(self, mask: Tensor) -> None:
        """See `Memory.forget`."""
        for ring in self.rings:
            ring.reset(mask)

    def positions(self, num_new: int) -> Tensor:
        """Positions (N, T) that the next `num_new` tokens will have; any, of those idle."""
        positions = self.rings[0].new_positions(num_new)
        if self._idle is None:
            return positions
        # There may be no places for more of theirs.
        return positions.masked_fill(self._idle[:, None], 0)

    def longest(self) -> int:
        """Tokens of the longest context since its last reset, of those that are not idle."""
        lengths, lockstep = self.rings[0].lengths, self.rings[0].lockstep
        if self._idle is not None:
            return int(lengths.masked_fill(self._idle, 0).max())
        return int(lengths.max()) if lockstep is None else lockstep


class RecurrentMemory(Memory):
    """The state of a recurrent trunk; one step costs the same at any length.

    Args:
        state: As the trunk made it, (layers, N, width).
        forward: The model's, which carries the state on.
    """

    def __init__(
        self, state: Tensor, forward: Callable[[Steps, "RecurrentMemory"], Output]
    ) -> None:
        self.state, self.forward = state, forward

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        """See `Memory.predict`."""
        if idle is None:
            return self.forward(steps, self).policy.squeeze(1)
        before = self.state.clone()
        logits = self.forward(steps, self).policy.squeeze(1)
        torch.where(idle[:, None], before, self.state, out=self.state)
        return logits

    def take(self, steps: Steps) -> None:
        """See `Memory.take`."""
        self.predict(steps)

    def forget(self, mask: Tensor) -> None:
        """See `Memory.forget`."""
        self.state.masked_fill_(mask[:, None], 0.0)


class RecomputedMemory(Memory):
    """The steps that can influence a prediction, from which it is computed every time.

    Args:
        forward: The model's, over whole sequences.
        num_envs: `N`.
        capacity: Steps to keep of each environment; None keeps all.
    """

    def __init__(
        self, forward: Callable[[Steps], Output], num_envs: int, capacity: int | None
    ) -> None:
        self.forward, self.capacity = forward, capacity
        self.lengths = torch.zeros(num_envs, dtype=torch.int64)  # on the host
        self.steps: list[Steps] = []  # as many of the newest as anybody needs, each (N, 1)

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        """See `Memory.predict`."""
        if idle is None:
            self.take(steps)
        else:
            self._take(steps, idle)
        total, whole = len(self.steps), Steps.join(self.steps)
        logits: Tensor | None = None
        lengths = self.lengths.clamp(min=1)  # 0: idle ones that have forgotten everything
        # Environments with equally long contexts are recomputed together.
        for length in lengths.unique().tolist():
            rows = (lengths == length).to(steps.previous_reward.device)
            context = whole.part(total - length, total, rows)
            newest = self.forward(context).policy[:, -1]
            if logits is None:
                logits = newest.new_empty((len(rows), newest.shape[1]))
            logits[rows] = newest
        assert logits is not None
        return logits

    def take(self, steps: Steps) -> None:
        """See `Memory.take`."""
        self._take(steps, None)

    def _take(self, steps: Steps, idle: Tensor | None) -> None:
        added = [*self.steps, steps.map(Tensor.clone)]
        if idle is None:
            self.lengths = self.lengths + 1
        else:
            self.lengths = self.lengths + ~idle.cpu()
            # What the idle ones remember moves on by a step, to end where that of others does.
            rows = torch.arange(len(idle), device=idle.device)[:, None]
            columns = torch.arange(len(added), device=idle.device) - idle[:, None].long()
            moved = Steps.join(added).map(lambda field: field[rows, columns.clamp(min=0)])
            added = [moved.part(t, t + 1) for t in range(len(added))]
        if self.capacity is not None:
            self.lengths = self.lengths.clamp(max=self.capacity)
        self.steps = added[-max(int(self.lengths.max()), 1) :]

    def forget(self, mask: Tensor) -> None:
        """See `Memory.forget`."""
        self.lengths = self.lengths.masked_fill(mask.cpu(), 0)


class RecordedMemory(Memory):
    """Another memory, and what it was shown and predicted.

    Args:
        memory: That predicts.
        length: Newest steps to keep (default: all).
    """

    def __init__(self, memory: Memory, length: int | None = None) -> None:
        self.memory, self.has_kernels = memory, memory.has_kernels
        self.steps: deque[Steps] = deque(maxlen=length)  # each (N, 1)
        self.logits: deque[Tensor] = deque(maxlen=length)  # each (N, A)

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        """See `Memory.predict`.

        Raises:
            UserError: If some are idle: what is recorded is as long for all.
        """
        if idle is not None:
            raise UserError(
                "steps cannot be recorded where some environments wait for others to reset; make "
                "the vector environment with autoreset_mode=AutoresetMode.SAME_STEP"
            )
        self.steps.append(steps.map(Tensor.clone))
        self.logits.append(self.memory.predict(steps))
        return self.logits[-1]

    def sample(self, steps: Steps, uniform: Tensor) -> Sample:
        """See `Memory.sample`."""
        self.steps.append(steps.map(Tensor.clone))
        drawn = self.memory.sample(steps, uniform)
        self.logits.append(drawn.logits)
        return drawn

    def softmax(self, logits: Tensor) -> Tensor:
        """See `Memory.softmax`."""
        return self.memory.softmax(logits)

    def take(self, steps: Steps) -> None:
        """See `Memory.take`; only the step is kept."""
        self.steps.append(steps.map(Tensor.clone))
        self.memory.take(steps)

    def forget(self, mask: Tensor) -> None:
        """See `Memory.forget`."""
        self.memory.forget(mask)

    def whole(self) -> Steps:
        """All steps that were kept, (N, T)."""
        return Steps.join(self.steps)
