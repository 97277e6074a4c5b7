"""Tokens per second of a training step: forward, loss, backward, clipping, AdamW.

Every step takes the same number of tokens, in ever longer sequences at a fixed window: the cost
per token should stay flat. Without a window, dense causal attention and GPT-2's grow with the
sequence. GPT-2 is Hugging Face's, of the same size, from the same weights, once with fastad's exact
GELU and once with its own, an approximation by tanh that takes longer on CPUs. "PyTorch alone" is
fastad without our kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Measure, relative_difference
from benchmarks.models import DEVICE, make_model, random_steps
from benchmarks.peers.gpt2 import GPT2
from fastad.model.sequence_model import SequenceModel

NUM_TOKENS, WINDOW, GATE_WINDOW = 8192, 512, 48
OWN_GELU = "GPT-2 with its own GELU"
A_PROCESS_EACH = True


@dataclass(frozen=True)
class Case:
    """A batch of sequences of so many steps, one token each."""

    length: int
    num_tokens: int
    window: int

    def __str__(self) -> str:
        return f"{self.num_tokens // self.length} x {self.length} tokens, window {self.window}"


CASES = [Case(length, NUM_TOKENS, WINDOW) for length in (256, 512, 1024, 2048, 4096, 8192)]
QUICK = [Case(80, 160, 40)]


def banded(model: SequenceModel, length: int) -> nn.Module:
    """Fastad as it is."""
    return model


def without_kernels(model: SequenceModel, length: int) -> nn.Module:
    """Fastad by PyTorch's operations."""
    model.kernels = "sdpa"
    return model


def dense(model: SequenceModel, length: int) -> nn.Module:
    """The same model, whose window is the whole sequence."""
    wide = make_model(length)
    wide.load_state_dict(model.state_dict())
    return wide


SIDES: dict[str, Callable[[SequenceModel, int], nn.Module]] = {
    "fastad": banded,
    "fastad, PyTorch alone": without_kernels,
    "dense causal attention": dense,
    "GPT-2, Hugging Face": GPT2,
    OWN_GELU: lambda model, length: GPT2(model, length, activation="gelu_new"),
}


def gradients(module: nn.Module, model: SequenceModel, num_steps: int) -> Tensor:
    """Of the loss by the parameters that all sides share, encoder and policy head, flat."""
    steps, target = random_steps(2, num_steps), random_targets(2, num_steps)
    module.zero_grad()
    F.cross_entropy(module(steps).policy.flatten(0, 1), target.flatten()).backward()
    policy = module.policy if isinstance(module, GPT2) else module.heads.policy
    shared = [*module.encoder.parameters(), *policy.parameters()]
    return torch.cat([parameter.grad.flatten() for parameter in shared])


def difference(side: str) -> float:
    """Of the gradient, from that of the reference attention."""
    model = make_model(GATE_WINDOW)
    # Without a window, a side computes the same function for as long as a window lasts.
    num_steps = (4 if side.startswith("fastad") else 1) * GATE_WINDOW
    actual = gradients(SIDES[side](model, num_steps).train(), model, num_steps)
    reference = make_model(GATE_WINDOW).train()
    reference.kernels = "reference"
    return relative_difference(actual, gradients(reference, model, num_steps))


def random_targets(num_envs: int, num_steps: int) -> Tensor:
    """Actions to predict, (num_envs, num_steps)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(5, (num_envs, num_steps), generator=generator).to(DEVICE)


def test_train(measure: Measure, case: Case, side: str) -> None:
    """See the module."""
    measure.gate(difference(side), **({"tolerance": 1e-2} if side == OWN_GELU else {}))
    batch = case.num_tokens // case.length
    steps, target = random_steps(batch, case.length), random_targets(batch, case.length)
    module = SIDES[side](make_model(case.window), case.length).train()
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)

    def update() -> None:
        F.cross_entropy(module(steps).policy.flatten(0, 1), target.flatten()).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    measure.rate(update, work=case.num_tokens, unit="tokens/s")
