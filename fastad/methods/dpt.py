"""DPT, the decision-pretrained transformer (Lee et al. 2023, arXiv 2306.14892): do as an expert."""

import numpy as np
import torch
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.methods.ad import AlgorithmDistillation, Target
from fastad.methods.base import Batch
from fastad.methods.windows import WindowSampler

ORDERS = 2  # the stream of random numbers, beside those of `WindowSampler`


class DecisionPretraining(AlgorithmDistillation):
    """Imitates, at every step of a history, an expert who is told the task.

    Args:
        windows: See `AlgorithmDistillation`, as the next.
        target: Of an expert.
        auxiliary_weight: See `AlgorithmDistillation`.
        unordered: Whether the steps of every window are shuffled, so that a context is a set of
            transitions, as the paper's; for models of the unordered layout.
    """

    def __init__(
        self,
        windows: WindowSampler,
        target: Target = "expert",
        *,
        unordered: bool = False,
        auxiliary_weight: float = 0.0,
    ) -> None:
        super().__init__(windows, target, auxiliary_weight=auxiliary_weight)
        self.unordered = unordered
        if unordered and auxiliary_weight > 0:
            raise UserError(
                f"auxiliary_weight={auxiliary_weight} is for one observation a token, and "
                "layout=unordered has two; use layout=fused, or leave it out"
            )

    def batch(self, step: int) -> Batch:
        """See `Method.batch`; independent of the weights."""
        batch = super().batch(step)
        if not self.unordered:
            return batch
        order = self._orders(step, batch.steps.context_start)
        targets = {name: _taken(target, order) for name, target in batch.targets.items()}
        return Batch(shuffled(batch.steps, order), targets)

    def _orders(self, step: int, begins: Tensor | None = None) -> Tensor:
        """An order of the steps of each context of `batch(step)`, (B, T); the last stays last.

        What came of the last step is not in the context: it is a query alone.

        Args:
            step: Update.
            begins: Where contexts begin, (B, T); None where each window is one.
        """
        windows, size = self.windows, self.windows.batch_size
        counter = np.array([0, step, ORDERS, 0], dtype=np.uint64)
        random = np.random.Generator(np.random.Philox(key=windows.seed, counter=counter))
        keys = random.random((size * windows.world_size, windows.num_steps))
        keys = keys[windows.rank * size : (windows.rank + 1) * size]
        keys[:, -1] = 1.0  # above all that are drawn
        if begins is None:
            return torch.from_numpy(keys.argsort(axis=1))
        starts = begins.cpu().numpy()
        keys[:, :-1][starts[:, 1:]] = 1.0
        return torch.from_numpy(np.lexsort((keys, starts.cumsum(axis=1))))


def shuffled(steps: Steps, order: Tensor) -> Steps:
    """Steps in another order, each after the transition from the one now before it.

    Args:
        steps: (B, T), as they happened.
        order: (B, T) permutations that leave the last step of every context where it is.
    """
    places = torch.arange(order.shape[1]).expand_as(order)
    begins = places == 0 if steps.context_start is None else steps.context_start
    # What came of a step stands in the one after it, where it happened; before the first, nothing.
    before = torch.where(begins, places, order.roll(1, dims=1))
    after = torch.where(begins, places, before + 1)
    return Steps(
        _taken(steps.observation, order),
        _taken(steps.previous_action, after),
        _taken(steps.previous_reward, after),
        _taken(steps.episode_start, order),
        _taken(steps.episode_step, order),
        previous_observation=_taken(steps.observation, before),
        context_start=steps.context_start,
    )


def _taken(field: Tensor, places: Tensor) -> Tensor:
    """From (B, T, ...), what stands at places (B, T) of each row."""
    return field[torch.arange(len(field))[:, None], places]
