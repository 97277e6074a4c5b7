"""Correctness of attention forward and backward, of the dropout mask, and determinism."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from fastad_kernels import alibi_slopes, attention, attention_varlen, philox
from torch import Tensor

from gpu.common import DEVICE, Check, Clock, check_equal, compare, guarded, randn

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
NAMES = ("out", "dq", "dk", "dv")

PLAIN = {"causal": True}
ALL = {"causal": True, "window": 65, "alibi": True, "dropout": 0.25, "kv_heads": 2, "packed": True}
FEATURES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "all": ALL,
    "window": {"causal": True, "window": 65},
    "window of one tile": {"causal": True, "window": 64},
    "ALiBi": {"causal": True, "alibi": True},
    "dropout": {"causal": True, "dropout": 0.25},
    "grouped heads": {"causal": True, "kv_heads": 1},
    "packed": {"causal": True, "packed": True},
    "not causal": {"causal": False},
    "not causal, window, ALiBi": {"causal": False, "window": 65, "alibi": True},
}
LENGTHS = ((600, 600), (1, 1), (63, 63), (128, 128), (111, 600), (600, 111))


def cases(quick: bool) -> Iterator[tuple[str, int, torch.dtype, tuple[int, int]]]:
    """Feature, head dim, dtype and lengths, the most important ones first."""
    if quick:
        yield "plain", 16, BF16, (70, 70)
        yield "all", 128, BF16, (40, 40)
        yield "window", 32, FP32, (20, 90)
        yield "not causal", 64, FP16, (37, 41)
        return
    yield from itertools.product(("plain", "all"), (16, 32, 64, 128), (BF16,), LENGTHS[:1])
    yield from itertools.product(("plain",), (16, 64), (BF16,), LENGTHS[1:])
    yield from itertools.product(("plain", "all"), (16, 64), (FP16, FP32), LENGTHS[:1])
    rest = [name for name in FEATURES if name not in ("plain", "all")]
    yield from itertools.product(rest, (16, 64), (BF16,), LENGTHS[:1])
    yield from itertools.product(("all",), (16, 128), (BF16,), LENGTHS[1:])


def run(clock: Clock, share: float, quick: bool) -> tuple[list[Check], int]:
    """All checks that fit into a share of the time.

    Returns:
        The checks, and the number of cases for which no time was left.
    """
    checks: list[Check] = []
    for head_dim in (16, 64) if quick else (16, 32, 64, 128):
        checks += guarded(
            "forward",
            head_dim,
            "dropout mask",
            lambda d=head_dim: _check_mask(d),  # type: ignore[misc]
        )
    pending = list(cases(quick))
    while pending and not clock.is_past(share):
        case = pending.pop(0)
        name = f"{case[0]} {str(case[2]).removeprefix('torch.')} {case[3][0]}x{case[3][1]}"
        checks += guarded("forward", case[1], name, lambda: _check_case(name, *case))  # noqa: B023
    return checks, len(pending)


def _check_case(
    name: str, feature: str, head_dim: int, dtype: torch.dtype, lengths: tuple[int, int]
) -> list[Check]:
    """Output and gradients against float64, and both once more for determinism."""
    settings = FEATURES[feature]
    kv_heads, batch = settings.get("kv_heads", 4), 1 if settings.get("packed") else 2
    q, g = (randn(batch, lengths[0], 4, head_dim, dtype=dtype, seed=i) for i in (0, 1))
    k, v = (randn(batch, lengths[1], kv_heads, head_dim, dtype=dtype, seed=i) for i in (2, 3))
    actual = _results("triton", (q, k, v, g), settings)
    again = _results("triton", (q, k, v, g), settings)
    exact = _results("reference", tuple(x.double() for x in (q, k, v, g)), settings)
    # The order of the features is of no consequence but for rounding.
    plains = []
    for shift in (0, 3, 6, 11):
        rolled = (q.roll(shift, -1), k.roll(shift, -1), v, g)
        out, dq, dk, dv = _results("reference", rolled, settings)
        plains.append((out, dq.roll(-shift, -1), dk.roll(-shift, -1), dv))
    checks = []
    for i, tensor in enumerate(NAMES):
        group, label = "backward" if i else "forward", f"{name} {tensor}"
        plain = [results[i] for results in plains]
        checks.append(compare(group, head_dim, label, actual[i], plain, exact[i]))
        checks.append(check_equal(group, head_dim, f"{label} repeated", again[i], actual[i]))
    return checks


def _results(impl: Any, tensors: tuple[Tensor, ...], settings: dict[str, Any]) -> list[Tensor]:
    """Output and gradients, all of shape (B, T or S, heads, D)."""
    q, k, v = (x.detach().requires_grad_() for x in tensors[:3])
    common: dict[str, Any] = {
        "causal": settings["causal"], "window": settings.get("window"),
        "alibi_slopes": alibi_slopes(q.shape[2]).to(DEVICE) if settings.get("alibi") else None,
        "dropout": settings.get("dropout", 0.0), "impl": impl,
    }  # fmt: skip
    if common["dropout"]:
        common["dropout_seed"] = torch.full((1,), 1234567890123, device=DEVICE)
    if settings.get("packed"):
        sizes = {"cu_seqlens_q": _cumulate(q), "cu_seqlens_k": _cumulate(k)}
        longest = {"max_seqlen_q": q.shape[1], "max_seqlen_k": k.shape[1]}
        out = attention_varlen(q[0], k[0], v[0], **sizes, **longest, **common)[None]
    else:
        out = attention(q, k, v, **common)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), tensors[3])]


def _cumulate(x: Tensor) -> Tensor:
    """Three sequences that fill (1, T, ...): one token, a third of the rest, what is left."""
    total = x.shape[1]
    ends = [0, min(1, total), 1 + (total - 1) // 3, total]
    return torch.tensor(ends, dtype=torch.int32, device=DEVICE)


def _check_mask(head_dim: int) -> list[Check]:
    """Read the mask off: with equal scores and one-hot values, kept weights are what is not 0."""
    batch, rows, heads, dropout = 2, 48, 2, 0.3
    seed = torch.full((1,), -987654321987654321, device=DEVICE)
    q = torch.zeros(batch, rows, heads, head_dim, device=DEVICE)
    k = torch.zeros(batch, head_dim, heads, head_dim, device=DEVICE)
    v = torch.eye(head_dim, device=DEVICE)[None, :, None].expand_as(k).contiguous()
    out = attention(q, k, v, causal=False, dropout=dropout, dropout_seed=seed, impl="triton")
    expected = philox.keep_mask(
        seed, dropout, batch=torch.arange(batch), heads=heads, rows=rows, columns=head_dim
    )
    actual = (out != 0).permute(0, 2, 1, 3)
    return [check_equal("forward", head_dim, "dropout mask", actual, expected)]
