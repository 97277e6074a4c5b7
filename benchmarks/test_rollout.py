"""Environment steps per second of a whole rollout step: model, sampling, environment.

Dark Room, a model of 4 layers and width 64, and a context that is full, as it is for most of a
long rollout. "fastad" is what `fastad rollout` does here; "PyTorch alone" is the same without our
kernels for whole steps. Recomputing the context is what code without a cache does, by PyTorch.
Past its context that is not exact: through its layers a prediction depends on
4 * (context - 1) + 1 tokens, and to recompute those is what `fastad rollout --no-kv-cache` does.

GPT-2 is Hugging Face's, with the same weights and its own cache; it cannot slide, so the newest
token is cropped from its cache after each step, which costs nothing, and the next one takes its
place. The rolled copy is exact here because the model has no positions.

JAX has the same weights, its own ring cache and its own Dark Room, all within one `lax.scan`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from fastad_kernels import Implementation
from torch import Tensor

from benchmarks.harness import Measure, needs_memory, peer, relative_difference
from benchmarks.models import DEVICE, dark_room, make_model, random_steps
from benchmarks.peers.gpt2 import GPT2
from benchmarks.peers.jax_scan import JaxScan
from benchmarks.peers.rolled import RolledCache
from fastad.acting.interact import interact
from fastad.acting.steps import Steps
from fastad.model.memory import Memory
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import InContextAgent
from fastad.rollouts.graph import GraphedStep

MAX_RECOMPUTED = 150_000  # tokens of one step; more would take minutes per measurement
GATE_CONTEXT = 32
A_PROCESS_EACH = True


@dataclass(frozen=True)
class Case:
    """So many environments, and the tokens that a prediction sees in one layer."""

    num_envs: int
    context: int

    def __str__(self) -> str:
        return f"{self.num_envs} environments, context {self.context}"


CASES = [Case(n, context) for context in (400, 2048, 8192) for n in (1, 64, 1024)]
QUICK = [Case(2, 40)]


def _cached(
    model: SequenceModel, num_envs: int, *, full: bool, kernels: Implementation = "auto"
) -> Memory:
    model.kernels = kernels
    memory = model.make_memory(num_envs)
    for ring in memory.rings if full else ():
        shape = (num_envs, ring.capacity, *ring.keys.shape[2:])
        keys = torch.randn(shape, device=DEVICE)
        ring.append(keys, keys if ring.shared else torch.randn(shape, device=DEVICE))
    return memory


class _Peer(Memory):
    def take(self, steps: Steps) -> None:
        self.predict(steps)

    def forget(self, mask: Tensor) -> None:
        raise NotImplementedError("peers go on for ever")


class _Rolled(RolledCache, _Peer):
    def __init__(self, model: SequenceModel, num_envs: int, *, full: bool) -> None:
        super().__init__(model, num_envs)
        if full:
            self.layers = [
                random_keys(model, num_envs, model.config.context) for _ in model.trunk.blocks
            ]

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        return self.decode(steps)


class _GPT2(_Peer):
    def __init__(self, model: SequenceModel, num_envs: int, *, full: bool) -> None:
        self.gpt2 = GPT2(model, model.config.context).eval()
        self.cache, self.full = peer("transformers").DynamicCache(), full
        if full:
            for layer in range(len(model.trunk.blocks)):
                self.cache.update(*random_keys(model, num_envs, model.config.context - 1), layer)

    def predict(self, steps: Steps, idle: Tensor | None = None) -> Tensor:
        logits = self.gpt2.decode(steps, self.cache)
        if self.full:
            self.cache.crop(-1)
        return logits


def _recomputed(
    model: SequenceModel,
    num_envs: int,
    *,
    full: bool,
    field: bool,
    kernels: Implementation = "auto",
) -> Memory:
    model.kernels = kernels
    memory = model.make_memory(num_envs, kv_cache=False)
    if full:
        capacity = model.receptive_field if field else model.config.context
        if num_envs * capacity > MAX_RECOMPUTED:
            pytest.skip(f"every step would recompute {num_envs * capacity:,} tokens")
        steps = random_steps(num_envs, capacity)
        memory.steps = [steps.part(t, t + 1) for t in range(capacity)]
        memory.capacity = capacity
        memory.lengths += capacity
    return memory


SIDES: dict[str, Callable[..., Memory]] = {
    "fastad": _cached,
    "fastad, PyTorch alone": partial(_cached, kernels="sdpa"),
    "GPT-2, Hugging Face": _GPT2,
    "JAX, lax.scan": JaxScan,
    "rolled copy": _Rolled,
    "recomputing the context": partial(_recomputed, field=False, kernels="sdpa"),
    "recomputing all that counts": partial(_recomputed, field=True),
}


def random_keys(model: SequenceModel, num_envs: int, num_tokens: int) -> tuple[Tensor, Tensor]:
    """What fills a cache: keys and values, each (N, H, tokens, D)."""
    shape = (num_envs, model.config.num_heads, num_tokens, model.config.head_dim)
    return torch.randn(shape, device=DEVICE), torch.randn(shape, device=DEVICE)


@torch.inference_mode()
def difference(side: str, num_envs: int) -> float:
    """Of the last logits of a short context that slides, from those of one whole pass."""
    model = make_model(GATE_CONTEXT)
    # GPT-2 sees everything: it computes the same function until the context is full.
    num_steps = GATE_CONTEXT if "GPT-2" in side else 4 * GATE_CONTEXT
    steps = random_steps(num_envs, num_steps)
    memory = SIDES[side](model, num_envs, full=False)
    for t in range(num_steps):
        logits = memory.predict(steps.part(t, t + 1))
    return relative_difference(logits, model(steps).policy[:, -1])


def test_rollout(measure: Measure, case: Case, side: str) -> None:
    """See the module."""
    # JAX's cache has another order for one environment: what is timed is what is checked.
    measure.gate(difference(side, min(case.num_envs, 4)))
    model = make_model(case.context)
    config = model.config
    # Copies are twice as large for a moment, one layer at a time.
    needs_memory(case.num_envs * case.context * 2 * config.width * 4 * (config.num_layers + 1))
    env, generator = dark_room(case.num_envs)
    with torch.inference_mode():
        memory = SIDES[side](model, case.num_envs, full=True)
    block_steps = 1 if "recomputing" in side or case.num_envs * case.context > 10**5 else 20
    work = block_steps * case.num_envs
    if isinstance(memory, JaxScan):
        blocks = memory.interact(env.tasks, block_steps=block_steps)
        measure.rate(lambda: next(blocks), work=work, unit="steps/s")
        return
    agent = InContextAgent(memory, model.actions, case.num_envs, generator=generator)
    steps = interact(
        env, agent, num_steps=10**9, block_steps=block_steps, generator=generator,
        record=GraphedStep if DEVICE == "cuda" and side == "fastad" else None,
    )  # fmt: skip
    with torch.inference_mode():
        measure.rate(lambda: next(steps), work=work, unit="steps/s")
