"""A whole model whose weights no longer change: environment steps in, logits out."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from fastad_kernels.cache import RingCache
from fastad_kernels.drawing import Sample


class StepTables(NamedTuple):
    """What steps are summed from, (rows, width); None where a model has none."""

    action: Tensor  # the last row is "none"
    reward: Tensor  # as many rows; each is scaled by the reward
    observation: Tensor | None  # None: observations are given as features
    start: Tensor  # two rows
    step: Tensor | None  # later steps share the last row
    kind: Tensor | None  # three rows; a step is one token if None, else one for each
    place: Tensor | None  # by the token's position


class FrozenModel(ABC):
    """Tables, blocks and a head with frozen weights: a step of all environments is one call.

    A step's tokens are action, (reward - shift) / scale times its action's row, and observation,
    start and step: summed, or one after the other with their kind. The last token of a step has
    its logits.
    """

    @abstractmethod
    def make_rings(self, batch_size: int, capacity: int) -> list[RingCache]:
        """Caches of at least `capacity` slots, one per block."""

    @abstractmethod
    def decode(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        start: Tensor,
        step: Tensor,
        rings: list[RingCache],
        positions: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Append T steps of B environments to their rings; without gradients.

        Numbers without a row are refused, before anything is changed.

        Args:
            observation: (B, T) or (B, T, coordinates) int64, or features (B, T, width) float32.
            action: The previous one, (B, T) int64.
            reward: The previous one, (B, T) float32; counts as 0 after action "none".
            start: Whether an episode begins, (B, T) bool.
            step: Within the episode, (B, T) int64.
            rings: As `make_rings` gave them; mutated.
            positions: Of the tokens, (B, tokens) or (tokens,) int64; for `StepTables.place` alone.
            rope: cos and sin of the new tokens, (B or 1, tokens, D / 2), or None.

        Returns:
            Logits (B, T, A).

        Raises:
            ValueError: If shapes, dtypes or rings do not fit the model, or gradients are wanted.
            IndexError: If a number has no row in its table.
        """

    @abstractmethod
    def sample(
        self,
        uniform: Tensor,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        start: Tensor,
        step: Tensor,
        rings: list[RingCache],
        positions: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Sample:
        """As `decode`; what each environment does by the logits of its last step, in one call.

        The softmax is that of the kernel, see `fastad_kernels.softmax`; an entry is drawn from it
        as `fastad_kernels.draw` does. What is returned may share memory with what other calls
        return, and is not to be written to by what autograd records.

        Args:
            uniform: In [0, 1), (B, 1) float32.
            observation: See `decode`, as for all that follow.
            action: See `decode`.
            reward: See `decode`.
            start: See `decode`.
            step: See `decode`.
            rings: See `decode`.
            positions: See `decode`.
            rope: See `decode`.
        """
