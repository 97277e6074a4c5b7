"""Times of attention, forward and backward, against PyTorch, FlexAttention and flash-attn.

Every point has 16384 tokens and a model width of 2048 (as in FlashAttention's own benchmark), in
bfloat16 and causal. Work is 4 * D per visible pair and head in the forward pass, 2.5 times that in
the backward pass; TFLOP/s count visible pairs alone, so that a banded kernel gets no credit for
what it skips.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fastad_kernels import attention
from fastad_kernels.testing.compile import KERNEL_ERRORS
from torch import Tensor

from gpu.common import DEVICE, Clock, milliseconds

TOKENS, WIDTH = 16384, 2048
IMPLEMENTATIONS = ("triton", "sdpa", "flash-attn", "flex")
PASSES = ("forward", "backward")
MAX_MASK_LENGTH = 4096
FLEX_HEAD_DIMS, FLEX_LENGTHS = (16, 64), (512, 2048, 16384)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class UnavailableError(Exception):
    """This implementation cannot do this point; the message says why."""


def points(quick: bool) -> Iterator[tuple[int, int, int | None]]:
    """Head dim, length and window, the most important ones first."""
    if quick:
        yield from itertools.product((16, 64), (512,), (None, 128))
        return
    head_dims = (16, 64, 32, 128)
    yield from itertools.product(head_dims, (2048, 16384), (None,))
    yield from itertools.product(head_dims, (2048, 16384), (512,))
    yield from itertools.product(head_dims, (512, 1024, 4096, 8192), (None,))
    yield from itertools.product(head_dims, (4096,), (512,))


def run(clock: Clock, share: float, quick: bool, failed: set[tuple[str, int]]) -> list[dict]:
    """One row per implementation, pass and point.

    Args:
        clock: Of the whole run.
        share: Of its limit, until which rows are measured; the others say so.
        quick: Few and small points.
        failed: Groups and head dims whose checks failed: their times are not taken.
    """
    bases = [torch.randn(TOKENS * WIDTH, device=DEVICE).to(torch.bfloat16) for _ in range(4)]
    rows, ours = [], {}
    # FlexAttention last, because compiling it takes long.
    for impls in (IMPLEMENTATIONS[:-1], IMPLEMENTATIONS[-1:]):
        for point, impl, which in itertools.product(points(quick), impls, PASSES):
            head_dim, length, window = point
            row: dict[str, Any] = {
                "impl": impl, "pass": which, "head_dim": head_dim, "length": length,
                "window": window, "status": "measured",
            }  # fmt: skip
            rows.append(row)
            if impl == "triton" and failed & {("forward", head_dim), (which, head_dim)}:
                row["status"] = f"not measured: D={head_dim} failed its checks"
                continue
            if clock.is_past(share):
                row["status"] = "not measured: no time left"
                continue
            row |= _measure(impl, which, bases, *point)
            if "ms" not in row:
                continue
            row["tflops"] = _flop(which, length, window) / row["ms"] / 1e9
            if impl == "triton":
                ours[which, point] = row["ms"]
            elif (which, point) in ours:
                row["triton_is_faster_by"] = row["ms"] / ours[which, point]
    return rows


def _measure(
    impl: str, which: str, bases: list[Tensor], head_dim: int, length: int, window: int | None
) -> dict[str, Any]:
    """Times of one point, or a status."""
    shape = (TOKENS // length, length, WIDTH // head_dim, head_dim)
    q, k, v, g = (x.view(shape).detach() for x in bases)
    q, k, v = (x.requires_grad_(which == "backward") for x in (q, k, v))
    try:
        attend = _MAKERS[impl](head_dim, length, window)
        out = attend(q, k, v)
        if which == "forward":
            return milliseconds(lambda: attend(q, k, v))
        return milliseconds(lambda: torch.autograd.grad(out, (q, k, v), g, retain_graph=True))
    except UnavailableError as reason:
        return {"status": f"not measured: {reason}"}
    except KERNEL_ERRORS as error:
        message = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
        return {"status": f"not measured: {message}"}


def _flop(which: str, length: int, window: int | None) -> float:
    """Multiplications and additions of all heads and sequences of a point."""
    seen = length if window is None else min(window, length)
    pairs = seen * (seen + 1) / 2 + (length - seen) * seen
    return 4 * pairs * WIDTH * (TOKENS // length) * (1.0 if which == "forward" else 2.5)


def _triton(head_dim: int, length: int, window: int | None) -> Attend:
    return partial(attention, window=window, impl="triton")


def _sdpa(head_dim: int, length: int, window: int | None) -> Attend:
    mask = None
    if window is not None:
        if length > MAX_MASK_LENGTH:
            raise UnavailableError("PyTorch has no banded attention; the mask would be too large")
        position = torch.arange(length, device=DEVICE)
        distance = position[:, None] - position
        mask = (distance >= 0) & (distance < window)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, is_causal=mask is None)
        return out.transpose(1, 2)

    return attend


def _flex(head_dim: int, length: int, window: int | None) -> Attend:
    if head_dim not in FLEX_HEAD_DIMS or length not in FLEX_LENGTHS:
        raise UnavailableError("FlexAttention takes long to compile, so only some points are taken")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key
        return seen if window is None else seen & (query - key < window)

    mask = create_block_mask(visible, None, None, length, length, device=DEVICE)
    torch.compiler.reset()  # or the limit of recompilations is soon reached
    torch._functorch.config.donated_buffer = False  # or a backward pass cannot be repeated
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(*heads_first, block_mask=mask).transpose(1, 2)

    return attend


def _flash(head_dim: int, length: int, window: int | None) -> Attend:
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        raise UnavailableError("flash-attn is not installed") from error
    band = (-1, -1) if window is None else (window - 1, 0)
    return partial(flash_attn_func, causal=True, window_size=band)


_MAKERS: dict[str, Callable[[int, int, int | None], Attend]] = {
    "triton": _triton,
    "sdpa": _sdpa,
    "flex": _flex,
    "flash-attn": _flash,
}
