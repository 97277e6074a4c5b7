"""What learners remember of the episode they are in."""

from collections.abc import Iterator

import torch
from torch import Tensor


class EpisodeMemory:
    """The current episode of every learner, to learn from once it is over.

    Args:
        episode_length: No episode is longer.
        examples: One (N, ...) tensor per quantity remembered; gives shapes, dtypes and device.
    """

    def __init__(self, episode_length: int, examples: tuple[Tensor, ...]) -> None:
        self._num_learners = len(examples[0])
        self._device = examples[0].device
        self._buffers = [
            example.new_zeros((episode_length, *example.shape)) for example in examples
        ]

    def write(self, episode_step: Tensor, learners: Tensor, *values: Tensor) -> None:
        """Remember `values`, (N, ...) each, as the steps `episode_step` (N,) of the episodes."""
        position = episode_step * self._num_learners + learners
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer.flatten(0, 1).index_copy_(0, position, value)

    def backwards(
        self, learners: Tensor, last_step: Tensor
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Replay the episodes of some learners, last step first.

        Learners with shorter episodes join when the replay reaches their last step.

        Args:
            learners: (n,) int64, ascending.
            last_step: (n,) int64, the episode step at which their episodes ended.

        Yields:
            Which of the learners have this step, as positions in `learners`, (m,) int64; and
            the remembered values at this step, (m, ...) each.
        """
        everyone = torch.arange(len(learners), device=self._device)
        shortest, longest = (int(step) for step in last_step.aminmax())
        for step in range(longest, -1, -1):
            present = everyone if step <= shortest else everyone[last_step >= step]
            if len(present) == self._num_learners:
                yield present, [buffer[step] for buffer in self._buffers]
            else:
                rows = learners[present]
                yield present, [buffer[step].index_select(0, rows) for buffer in self._buffers]
