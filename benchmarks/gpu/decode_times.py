"""Times of one decode step: bytes per second, as a share of what a copy on the device reaches.

Counted are the bytes that the step cannot do without: keys and values of the band, once, and the
new tokens written. The step runs from a captured CUDA graph, as a rollout runs it, so that launches
do not hide the kernel; beside it stands the same step launched from Python.
"""

from functools import partial
from typing import Any

import torch
from fastad_kernels import decode_attention
from fastad_kernels.testing.compile import KERNEL_ERRORS
from torch import Tensor

from gpu.common import DEVICE, Clock, milliseconds, randn
from gpu.decode_checks import BF16, INT8, Case, capture, make_ring

COPY_BYTES = 2**30


def cases(quick: bool) -> list[Case]:
    """The most important ones first."""
    if quick:
        return [Case(16, window=128, num_envs=8)]
    return [
        Case(head_dim, num_new, heads, storage=storage, window=window, num_envs=num_envs)
        for head_dim, num_new, heads, storage, window in (
            (16, 3, (4, 4), BF16, 600),
            (16, 3, (4, 4), BF16, 4096),
            (64, 1, (8, 8), BF16, 2048),
            (32, 3, (8, 8), BF16, 2048),
            (128, 1, (8, 8), BF16, 2048),
            (16, 3, (4, 4), INT8, 4096),
            (64, 1, (8, 2), BF16, 4096),
        )
        for num_envs in (64, 1024)
    ]


def copy_bandwidth() -> float:
    """Bytes per second that a copy on the device reads and writes together."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (milliseconds(lambda: target.copy_(source))["ms"] / 1e3)


def run(
    clock: Clock, share: float, quick: bool, failed: set[tuple[str, int]]
) -> tuple[float, list[dict]]:
    """The bandwidth of a copy, and one row per implementation and case; arguments as elsewhere."""
    bandwidth = copy_bandwidth()
    rows = []
    for case in cases(quick):
        for impl in ("triton graph", "triton", "sdpa", "flash-attn"):
            row: dict[str, Any] = {
                "impl": impl, "envs": case.num_envs, "window": case.window,
                "head_dim": case.head_dim, "heads": list(case.heads), "new_tokens": case.num_new,
                "storage": str(case.storage).removeprefix("torch."), "status": "measured",
            }  # fmt: skip
            rows.append(row)
            if impl.startswith("triton") and ("decode", case.head_dim) in failed:
                row["status"] = f"not measured: decode failed its checks at D={case.head_dim}"
            elif clock.is_past(share):
                row["status"] = "not measured: no time left"
            else:
                row |= _measure(impl, case)
            if "ms" in row:
                row["gigabytes_per_second"] = num_bytes(case) / row["ms"] / 1e6
                row["share_of_copy"] = row["gigabytes_per_second"] * 1e9 / bandwidth
    return bandwidth, rows


def num_bytes(case: Case) -> int:
    """Of keys and values that a step reads, with their scales, and of the new tokens it writes."""
    row = case.head_dim * case.storage.itemsize + (4 if case.storage == INT8 else 0)
    tokens = (case.window - 1) + case.num_new  # read of the band, then written
    return 2 * case.num_envs * case.heads[1] * tokens * row


def _measure(impl: str, case: Case) -> dict[str, Any]:
    shapes = [(case.num_envs, case.num_new, heads, case.head_dim) for heads in case.heads]
    q, k, v = (
        randn(*shape, dtype=BF16, seed=i) for i, shape in enumerate((shapes[0], *shapes[1:] * 2))
    )
    try:
        if impl == "flash-attn":
            return milliseconds(_flash_step(case, q, k, v))
        ring = make_ring(case, case.storage)
        step = partial(decode_attention, q, k, v, ring, window=case.window)
        if impl == "triton graph":
            graph, _ = capture(case, ring, [q, k, v])
            ring.lengths.fill_(case.window + 5)
            return milliseconds(graph.replay)
        # The band is full, and every environment is where it would be after so many steps.
        ring.lengths.fill_(case.window + 5)
        ring.lockstep = case.window + 5
        return milliseconds(partial(step, impl=impl))
    except KERNEL_ERRORS as error:
        message = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
        return {"status": f"not measured: {message}"}


def _flash_step(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Any:
    """flash-attn's decode on a cache without wrap-around, always at the same position."""
    try:
        from flash_attn import flash_attn_with_kvcache
    except ImportError as error:
        raise RuntimeError("flash-attn is not installed") from error
    if case.storage == INT8:
        raise RuntimeError("flash-attn has no int8 cache")
    ring = make_ring(case, case.storage)
    lengths = torch.full((case.num_envs,), case.window, dtype=torch.int32, device=DEVICE)
    return partial(
        flash_attn_with_kvcache, q, ring.keys, ring.values, k, v, cache_seqlens=lengths,
        causal=True, window_size=(case.window - 1, 0),
    )  # fmt: skip
