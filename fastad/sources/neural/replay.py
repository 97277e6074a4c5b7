"""What learners remember, to learn from it again: a ring of steps, and n-step returns from it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """Drawn steps, `B` for each of `N` learners, with what followed up to n steps later."""

    seen: Tensor  # (N, B, size), as it was kept
    action: Tensor  # (N, B) int64
    reward: Tensor  # (N, B) float32, the discounted sum over the steps shown
    discount: Tensor  # (N, B) float32, of the value at `following`; 0 after termination
    following: Tensor  # (N, B, size), as it was kept, where the last of the steps ended


class Replay:
    """The last steps of `N` learners, the same number of each.

    Args:
        num_learners: `N`.
        capacity: Steps that are kept of each.
        size: Numbers that are kept of what is seen, see `Inputs.keep`.
        dtype: Of them.
        device: Where.
    """

    def __init__(
        self, num_learners: int, capacity: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_learners, self.capacity, self.filled = num_learners, capacity, 0
        self._next = 0  # the slot that is written next: the oldest, once all are filled
        shape = (num_learners, capacity)
        self._seen = torch.zeros(*shape, size, dtype=dtype, device=device)
        self._led_to = torch.zeros_like(self._seen)
        self._action = torch.zeros(shape, dtype=torch.int64, device=device)
        self._reward = torch.zeros(shape, device=device)
        self._terminated, self._ended = (torch.zeros(shape, device=device) for _ in range(2))
        self._first_row = torch.arange(num_learners, device=device)[:, None] * capacity  # (N, 1)

    def write(
        self,
        seen: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        led_to: Tensor,
    ) -> None:
        """Remember a step of every learner, (N, ...) each; `led_to` before any auto-reset."""
        slot = self._next
        self._seen[:, slot], self._led_to[:, slot] = seen, led_to
        self._action[:, slot], self._reward[:, slot] = action, reward
        self._terminated[:, slot], self._ended[:, slot] = terminated, terminated | truncated
        self._next = (slot + 1) % self.capacity
        self.filled = min(self.filled + 1, self.capacity)

    def sample(
        self, batch_size: int, num_steps: int, gamma: float, generator: torch.Generator
    ) -> Sample:
        """Draw steps uniformly, among those that `num_steps` - 1 more are known after.

        Returns do not reach past the end of an episode: a truncated one bootstraps from where it
        ended.

        Args:
            batch_size: `B`, steps of each learner.
            num_steps: Rewards in a return, at most; no more than were written.
            gamma: Discount per step.
            generator: Draws the steps.
        """
        device = self._reward.device
        shape = (self.num_learners, batch_size)
        choices = self.filled - num_steps + 1
        age = torch.randint(choices, shape, generator=generator, device=device)
        oldest = self._next if self.filled == self.capacity else 0
        ahead = torch.arange(num_steps, device=device)
        slots = (oldest + age[..., None] + ahead) % self.capacity  # (N, B, n)
        rows = slots + self._first_row[..., None]
        ended = self._take(self._ended, rows)
        # 1 up to the step at which the episode ends, itself included; then 0.
        going = torch.cat((torch.ones_like(ended[..., :1]), 1 - ended[..., :-1]), dim=-1)
        going = going.cumprod(dim=-1)
        reward = (self._take(self._reward, rows) * going * gamma**ahead).sum(dim=-1)
        shown = going.sum(dim=-1)
        last = rows.gather(-1, shown.long()[..., None] - 1)[..., 0]
        discount = gamma**shown * (1 - self._take(self._terminated, last))
        first = rows[..., 0]
        return Sample(
            self._take(self._seen, first),
            self._take(self._action, first),
            reward,
            discount,
            self._take(self._led_to, last),
        )

    @staticmethod
    def _take(buffer: Tensor, rows: Tensor) -> Tensor:
        """Entries of a buffer (N, capacity, ...) by their rows (...), learner * capacity + slot."""
        taken = buffer.flatten(0, 1).index_select(0, rows.flatten())
        return taken.view(*rows.shape, *buffer.shape[2:])
