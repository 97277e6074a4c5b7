"""What environments lived through, step by step, cut into blocks: in step or each at its own."""

import torch
from torch import Tensor


class Lived:
    """Transitions of `N` environments as they come, until there is a block of them.

    Where some environments wait, see `BatchedEnv.waiting`, they have fewer transitions than
    others from then on: blocks are of each one's own next steps. Those who have all that is wanted
    wait for the others.

    Args:
        num_steps: Transitions wanted of each environment.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.taken = num_steps, 0  # taken: of each, by blocks
        self.steps: list[list[Tensor]] = []  # fields (N, ...), those that somebody may need
        # Once somebody waited: transitions so far of each, (N,) int64, and which of the steps
        # above they are, (N,) bool each.
        self.counts: Tensor | None = None
        self.wanted: list[Tensor] = []

    def idle(self, waiting: Tensor | None) -> Tensor | None:
        """The environments whose coming step is not to be counted, (N,) bool; None if all are."""
        if self.counts is None:
            if waiting is None:
                return None
            self.counts = torch.full_like(waiting, self.taken + len(self.steps), dtype=torch.int64)
            self.wanted = [torch.ones_like(waiting) for _ in self.steps]
        done = self.counts >= self.num_steps
        idle = done if waiting is None else done | waiting
        return idle if idle.any() else None

    def add(self, step: list[Tensor], idle: Tensor | None) -> None:
        """Take note of a step, fields (N, ...), whoever was idle in it."""
        self.steps.append(step)
        if self.counts is not None:
            wanted = torch.ones_like(self.counts, dtype=torch.bool) if idle is None else ~idle
            self.wanted.append(wanted)
            self.counts = self.counts + wanted

    def have(self, num: int) -> bool:
        """Whether `num` transitions of each have come that were not taken yet."""
        if self.counts is None:
            return len(self.steps) >= num
        return int(self.counts.min()) >= self.taken + num

    def take(self, num: int) -> list[Tensor]:
        """The next `num` transitions of each that are there, fields (N, num, ...)."""
        self.taken += num
        fields = [torch.stack(field, dim=1) for field in zip(*self.steps, strict=True)]
        if self.counts is None:
            self.steps = []
            return fields
        wanted = torch.stack(self.wanted, dim=1)
        rows = torch.arange(len(wanted), device=wanted.device)[:, None]
        # Wanted ones first, in their order.
        columns = wanted.long().argsort(dim=1, descending=True, stable=True)[:, :num]
        wanted[rows, columns] = False
        left = int(wanted.any(dim=0).long().argmax()) if wanted.any() else len(self.steps)
        self.steps, self.wanted = self.steps[left:], list(wanted.unbind(dim=1))[left:]
        return [field[rows, columns] for field in fields]
