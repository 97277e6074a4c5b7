"""Correctness of decode over several turns of the ring, and of a captured CUDA graph of a step."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fastad_kernels import RingCache, alibi_slopes, decode_attention, rope_angles
from fastad_kernels.testing.host_sync import forbid_host_sync
from torch import Tensor

from gpu.common import DEVICE, HAS_GPU, Check, Clock, check_equal, compare, guarded, randn

BF16, FP32, INT8 = torch.bfloat16, torch.float32, torch.int8


@dataclass(frozen=True)
class Case:
    """One rollout.

    Attributes:
        head_dim: D.
        num_new: Tokens per step.
        heads: Query heads and key/value heads.
        dtype: Of queries, keys and values.
        storage: Of the ring.
        relative: Whether RoPE and ALiBi are on.
        window: Tokens that a query sees; the ring holds a few more than needed.
        num_envs: Environments.
        num_steps: Enough to go round the ring three times.
    """

    head_dim: int
    num_new: int = 3
    heads: tuple[int, int] = (4, 4)
    dtype: torch.dtype = BF16
    storage: torch.dtype = BF16
    relative: bool = False
    window: int = 300
    num_envs: int = 5
    num_steps: int = 330

    @property
    def name(self) -> str:
        """For the report."""
        dtypes = "/".join(str(x).removeprefix("torch.") for x in (self.dtype, self.storage))
        extra = " RoPE ALiBi" if self.relative else ""
        return f"{self.num_new} tokens, heads {self.heads[0]}/{self.heads[1]}, {dtypes}{extra}"


def cases(quick: bool) -> Iterator[Case]:
    """The most important ones first."""
    if quick:
        small = {"window": 20, "num_envs": 2, "num_steps": 9}
        yield Case(16, relative=True, **small)
        yield Case(64, num_new=1, heads=(4, 2), storage=INT8, **small)
        return
    for head_dim in (16, 32, 64, 128):
        yield Case(head_dim)
    for head_dim, num_new in itertools.product((16, 64, 32, 128), (1, 3)):
        yield Case(head_dim, num_new, heads=(8, 2), storage=INT8, relative=True)
    for head_dim in (16, 64):
        yield Case(head_dim, dtype=FP32, storage=FP32, relative=True)
        yield Case(head_dim, heads=(3, 3), relative=True)
        yield Case(head_dim, num_new=1, window=4000, num_steps=1500)
        yield Case(head_dim, num_new=20, heads=(16, 4), num_steps=60)


def run(clock: Clock, share: float, quick: bool) -> tuple[list[Check], int]:
    """All checks that fit into a share of the time, and how many cases did not."""
    checks: list[Check] = []
    pending = list(cases(quick))
    while pending and not clock.is_past(share):
        case = pending.pop(0)
        checks += guarded("decode", case.head_dim, case.name, lambda: _check_rollout(case))  # noqa: B023
    checks += guarded("decode", 16, "no host synchronisation", _check_host_sync)
    if HAS_GPU:
        checks += guarded("decode", 16, "CUDA graph", _check_graph)
    return checks, len(pending)


def make_ring(case: Case, dtype: torch.dtype) -> RingCache:
    """The ring of a case, stored in `dtype`."""
    capacity = case.window + case.num_new + 7
    return RingCache(
        case.num_envs, capacity, case.heads[1], case.head_dim, dtype=dtype, device=DEVICE,
        order="token",
    )  # fmt: skip


def _check_rollout(case: Case) -> list[Check]:
    """Step by step, with one environment restarted on the way; errors of the worst step."""
    rings = {
        "triton": make_ring(case, case.storage),
        "plain": make_ring(case, case.storage),
        "exact": make_ring(case, torch.float64),
    }
    slopes = alibi_slopes(case.heads[0]).to(DEVICE) if case.relative else None
    outs: dict[str, list[Tensor]] = {name: [] for name in rings}
    restarted = torch.arange(case.num_envs, device=DEVICE) == 1
    every = max(1, case.num_steps // 40)
    for step in range(case.num_steps):
        q, k, v = _new_tokens(case, step)
        for name, ring in rings.items():
            if step == case.num_steps // 2:
                ring.reset(restarted)
            dtype = torch.float64 if name == "exact" else case.dtype
            rope = None
            if case.relative:
                positions = ring.new_positions(case.num_new)
                rope = rope_angles(positions, case.head_dim, dtype=torch.promote_types(dtype, FP32))
            out = decode_attention(
                q.to(dtype), k.to(dtype), v.to(dtype), ring, window=case.window,
                alibi_slopes=slopes, rope=rope, impl="triton" if name == "triton" else "reference",
            )  # fmt: skip
            if step % every == 0 or step >= case.num_steps - 3:
                outs[name].append(out)
    actual, plain, exact = (torch.stack(outs[name]) for name in ("triton", "plain", "exact"))
    checks = [compare("decode", case.head_dim, case.name, actual, [plain], exact)]
    if not case.relative:  # else the rotation may round differently before it is stored
        stored, expected = rings["triton"].keys, rings["plain"].keys
        checks.append(check_equal("decode", case.head_dim, f"{case.name} ring", stored, expected))
    return checks


def _new_tokens(case: Case, step: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (case.num_envs, case.num_new)
    q, k, v = (
        randn(*shape, heads, case.head_dim, dtype=case.dtype, seed=3 * step + i)
        for i, heads in enumerate((case.heads[0], case.heads[1], case.heads[1]))
    )
    return q, k, v


def _check_host_sync() -> list[Check]:
    """A step asks the device nothing."""
    case = Case(16, window=20, num_envs=2)
    ring, (q, k, v) = make_ring(case, BF16), _new_tokens(case, 0)
    decode_attention(q, k, v, ring, window=20, impl="triton")  # compiles
    with forbid_host_sync():
        decode_attention(q, k, v, ring, window=20, impl="triton")
    return [Check("decode", 16, "no host synchronisation")]


def _check_graph() -> list[Check]:
    """Replays of one captured step equal eager steps, bit for bit, over turns of the ring."""
    case = Case(16, window=60, num_envs=64)
    eager, captured = make_ring(case, BF16), make_ring(case, BF16)
    buffers = [x.clone() for x in _new_tokens(case, 0)]
    graph, out = capture(case, captured, buffers)
    problem = None
    for step in range(100):
        tokens = _new_tokens(case, step)
        for buffer, new in zip(buffers, tokens, strict=True):
            buffer.copy_(new)
        graph.replay()
        expected = decode_attention(*tokens, eager, window=case.window, impl="triton")
        if problem is None and not torch.equal(out, expected):
            problem = f"step {step} of the replayed graph differs from the eager step"
    return [Check("decode", 16, "CUDA graph", problem=problem)]


def capture(
    case: Case, ring: RingCache, buffers: list[Tensor]
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A CUDA graph of one step on fixed buffers, with the ring empty again afterwards."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            decode_attention(*buffers, ring, window=case.window, impl="triton")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode_attention(*buffers, ring, window=case.window, impl="triton")
    ring.reset()
    return graph, out
