"""What a frozen model attended to while it lived: weights over the steps of its context.

A rollout's cached step keeps no weights. They are computed afterwards: the steps that the model was
shown pass through the model once more, and what every layer attends with is given to the plain
specification of attention, query by query.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.model.gru import GRU
from fastad.model.kernels import alibi_slopes, attention_weights
from fastad.model.sequence_model import SequenceModel

LEVELS = 255  # of a weight in JSON


@dataclass(frozen=True)
class Attention:
    """How much chosen steps of one rollout attended to the steps before them.

    Attributes:
        query: (Q,) int64, the chosen steps.
        weights: (Q, layers, window) float32: means over heads, so that they sum to 1 in every layer
            unless its band ends within the earliest step. The last is of the query's own step,
            the first of the one `window` - 1 before it; 0 before the context began.
    """

    query: np.ndarray
    weights: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """In bytes, each layer's by its own largest weight: `data / 255 * scale`."""
        scale = self.weights.max(axis=-1, keepdims=True)
        levels = np.rint(self.weights / np.where(scale > 0, scale, 1) * LEVELS).astype(np.uint8)
        return {
            "query": self.query.tolist(),
            "data": base64.b64encode(levels.tobytes()).decode(),
            "scale": [[round(float(x), 6) for x in row] for row in scale[..., 0]],
        }


def steps_in_window(model: SequenceModel) -> int:
    """Steps that a query sees at least a token of, at most."""
    return -(-model.window // model.config.tokens_per_step)


@torch.no_grad()
def attention_by_head(model: SequenceModel, steps: Steps, query: Tensor) -> Tensor | None:
    """What the model attended to when it predicted at some steps of one sequence.

    The tokens of a step are added up. In the fused layout a step's token tells where the agent was
    then, and the action and the reward that led there; in the interleaved one these are three
    tokens, the last of which attends. In the unordered layout they are two, what came of the step
    before and the query; the latter attends.

    Args:
        model: In evaluation mode, seeing the window of the rollout.
        steps: (1, T), all of one context, as the model was shown them.
        query: (Q,) int64, steps among them.

    Returns:
        (Q, layers, heads, window) float32 on the CPU, the last of the query's own step; None for a
        GRU, which has no attention.
    """
    if isinstance(model.trunk, GRU):
        return None
    config, window = model.config, model.window
    per_step = config.tokens_per_step
    slopes = None
    if config.positions == "alibi":
        slopes = alibi_slopes(config.num_heads, device=steps.previous_reward.device)
    layers: list[Tensor] = []

    # Another token than the first of a step may be the first that a query sees.
    seen = steps_in_window(model) * per_step

    def observe(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        rows = []
        for step in query.tolist():
            stop = (step + 1) * per_step  # the last token of a step predicts
            first = max(stop - window, 0)
            weights = attention_weights(
                q[:, stop - 1 : stop],
                k[:, first:stop],
                window=window,
                causal=True,
                scale=config.head_dim**-0.5,
                alibi_slopes=slopes,
            )[0, :, 0]  # (H, S)
            weights = F.pad(weights, (seen - weights.shape[1], 0))
            rows.append(weights.unflatten(1, (-1, per_step)).sum(dim=2))
        layers.append(torch.stack(rows).cpu())

    model.trunk.observer = observe
    try:
        model(steps)
    finally:
        model.trunk.observer = None
    return torch.stack(layers, dim=1)


def attention_of(
    model: SequenceModel, steps: Steps, query: Tensor, *, before: int = 0
) -> Attention:
    """The mean over heads of `attention_by_head`, of a model that has attention.

    Args:
        model: As there.
        steps: (1, T); where `context_start` says so, a context of its own begins.
        query: As there, ascending.
        before: Steps of a prompt, which are counted as the steps below 0.
    """
    weights = [
        attention_by_head(
            model, steps._replace(context_start=None).part(first, stop), query[chosen] - first
        )
        for first, stop in pairwise(_bounds(steps))
        if (chosen := (query >= first) & (query < stop)).any()
    ]
    told = torch.cat([each for each in weights if each is not None]).mean(dim=2)
    return Attention((query - before).numpy(), told.numpy())


def _bounds(steps: Steps) -> list[int]:
    """Where contexts begin and end in steps (1, T)."""
    num_steps = steps.previous_reward.shape[1]
    starts = steps.context_start
    begins = [] if starts is None else starts[0].nonzero()[:, 0].tolist()
    return sorted({0, *begins, num_steps})
