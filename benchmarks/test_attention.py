"""Attention alone: whole sequences forward and backward, and one token against a cache.

Ours is banded and chooses its kernels itself; "PyTorch alone" is without them. "sees all" and
"sees the band" are PyTorch's fused attention without a window, which is another function, and with
a mask of the band. "backward" is forward and backward. The figure is tokens per second, in float32
on CPUs and bfloat16 on GPUs.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from fastad_kernels import RingCache, attention, decode_attention
from fastad_kernels.cache import Order
from torch import Tensor

from benchmarks.harness import Measure, relative_difference

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DTYPE, TOLERANCE = (torch.bfloat16, 2e-2) if GPU else (torch.float32, 1e-5)
WIDTH, DECODE_ENVS = (2048, 512) if GPU else (64, 64)
MAX_REFERENCE, CHECKED = 4096, 256


class Case(NamedTuple):
    """One shape; `length` is the context in decoding."""

    task: str
    head_dim: int
    length: int
    flex: bool = False  # compiling FlexAttention takes 10 s per shape

    @property
    def window(self) -> int:
        """Tokens that a query sees."""
        return self.length if self.task == "decode" else min(self.length, 512)

    def __str__(self) -> str:

        band = "" if self.window == self.length else f" W={self.window}"
        return f"{self.task} D={self.head_dim} T={self.length}{band}"


SHAPES = [(16, 256), (16, 1024), (16, 2048), (16, 8192), (32, 2048), (64, 2048)]
CASES = [
    *(Case("forward", *shape, flex=shape in ((16, 2048), (16, 8192))) for shape in SHAPES),
    *(Case("backward", *shape, flex=GPU) for shape in SHAPES),
    *(Case("decode", *shape) for shape in [(16, 256), (16, 2048), (16, 8192), (64, 2048)]),
]
QUICK = [Case("forward", 16, 600), Case("backward", 16, 600), Case("decode", 16, 64)]
ALONE = "fastad, PyTorch alone"
SIDES = (
    "fastad", ALONE, "reference", "SDPA, sees all", "SDPA, sees the band", "FlexAttention",
    "flash-attn", "Triton kernels",
)  # fmt: skip

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def test_attention(measure: Measure, case: Case, side: str) -> None:
    measure.row["group"] = case.task
    _check_available(case, side)
    if case.task == "decode":
        _decode(measure, case, side)
        return
    shape = (1, case.length, WIDTH // case.head_dim, case.head_dim)
    backward = case.task == "backward"
    generator = torch.Generator(DEVICE).manual_seed(0)
    q, k, v, g = (
        torch.randn(shape, generator=generator, device=DEVICE, dtype=DTYPE) for _ in range(4)
    )
    q, k, v = (x.requires_grad_(backward) for x in (q, k, v))
    attend = _make(case, side)

    def run(g: Tensor) -> tuple[Tensor, ...]:
        out = attend(q, k, v)
        return (out, *torch.autograd.grad(out, (q, k, v), g)) if backward else (out,)

    measure.gate(_difference(run, case, side, q, k, v, g), tolerance=TOLERANCE)
    measure.rate(lambda: run(g), work=case.length, unit="tokens/s")


def _check_available(case: Case, side: str) -> None:
    """Leave out what cannot run here, with the reason."""
    if side == "Triton kernels" and not GPU:
        pytest.skip("the Triton kernels run on GPUs; here only in the interpreter")
    if side == "reference" and case.length > MAX_REFERENCE:
        pytest.skip("the specification forms all T x T scores: too slow to wait for")
    if side == "flash-attn":
        pytest.importorskip("flash_attn", reason="not installed: pip install flash-attn, on a GPU")
    if case.task == "decode" and side in ("SDPA, sees the band", "FlexAttention", "flash-attn"):
        pytest.skip("has no ring cache to decode from")
    if side == "FlexAttention" and case.task == "backward" and not GPU:
        pytest.skip("FlexAttention has no backward pass on CPUs")
    if side == "FlexAttention" and not case.flex:
        pytest.skip("compiling it takes long, so only some shapes are taken")


def _make(case: Case, side: str) -> Attend:
    """The function of a side: (B, T, H, D) each, to (B, T, H, D)."""
    impl = {"fastad": "auto", ALONE: "sdpa", "reference": "reference", "Triton kernels": "triton",
            "flash-attn": "flash"}.get(side)  # fmt: skip
    if impl is not None:
        return partial(attention, window=case.window, impl=impl)  # type: ignore[arg-type]
    if side == "FlexAttention":
        return _flex(case)
    mask = None
    if side == "SDPA, sees the band":
        position = torch.arange(case.length, device=DEVICE)
        distance = position[:, None] - position
        mask = (distance >= 0) & (distance < case.window)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, is_causal=mask is None)
        return out.transpose(1, 2)

    return attend


def _flex(case: Case) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < case.window)

    mask = create_block_mask(visible, None, None, case.length, case.length, device=DEVICE)
    torch.compiler.reset()  # or the limit of recompilations is soon reached
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        try:
            out: Tensor = compiled(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=mask)
        except (RuntimeError, NotImplementedError) as error:
            pytest.skip(f"FlexAttention cannot run here: {str(error).splitlines()[0]}")
        return out.transpose(1, 2)

    return attend


def _difference(
    run: Callable[[Tensor], tuple[Tensor, ...]], case: Case, side: str,
    q: Tensor, k: Tensor, v: Tensor, g: Tensor,
) -> float:  # fmt: skip
    """From the reference in float64, at the last queries and all keys that they see.

    All other queries get no gradient here, so that those of all keys are known too.
    """
    window = case.length if side == "SDPA, sees all" else case.window
    queries = min(case.length, CHECKED)
    keys = min(case.length, queries + window - 1)
    tail = torch.cat([torch.zeros_like(g[:, :-queries]), g[:, -queries:]], dim=1)
    actual = run(tail)
    wide = [x[:, -n:].detach().double() for x, n in ((q, queries), (k, keys), (v, keys))]
    wide = [x.requires_grad_(q.requires_grad) for x in wide]
    expected: tuple[Tensor, ...] = (attention(*wide, window=window, impl="reference"),)
    if q.requires_grad:
        expected += torch.autograd.grad(expected[0], wide, g[:, -queries:].double())
    return max(
        relative_difference(a[:, -e.shape[1] :].double(), e)
        for a, e in zip(actual, expected, strict=True)
    )


def _decode(measure: Measure, case: Case, side: str) -> None:
    """One new token of each environment against a full cache of `case.window` tokens."""
    num_envs = 4 if measure.quick else max(1, DECODE_ENVS * 512 // max(case.length, 512))
    heads, dim = WIDTH // case.head_dim, case.head_dim
    generator = torch.Generator(DEVICE).manual_seed(0)
    shape = (num_envs, case.length, heads, dim)
    k, v = (torch.randn(shape, generator=generator, device=DEVICE, dtype=DTYPE) for _ in range(2))
    q = torch.randn(num_envs, 1, heads, dim, generator=generator, device=DEVICE, dtype=DTYPE)
    newest = k[:, -1:], v[:, -1:]
    call: Callable[[], Tensor]
    if side == "SDPA, sees all":
        # What a cache without a ring does: the oldest token falls out as all are copied.
        measure.row["remark"] = "copies its cache at every step"
        rolled = [x.transpose(1, 2).contiguous() for x in (k, v)]
        queries, new = q.transpose(1, 2), [x.transpose(1, 2) for x in newest]

        def call() -> Tensor:
            rolled[:] = [torch.cat([x[:, :, 1:], n], 2) for x, n in zip(rolled, new, strict=True)]
            return F.scaled_dot_product_attention(queries, *rolled).transpose(1, 2)

        rolled = [torch.cat([n, x[:, :, :-1]], 2) for x, n in zip(rolled, new, strict=True)]
    else:
        impl = {"fastad": "auto", ALONE: "sdpa", "Triton kernels": "triton"}.get(side, side)
        order: Order | None = "token" if impl == "triton" else None
        if impl == "auto" and not GPU:
            order = "column"  # as our C++ kernels read it
        ring = RingCache(num_envs, case.length, heads, dim, dtype=DTYPE, device=DEVICE, order=order)
        for token in range(case.length - 1):
            ring.append(k[:, token : token + 1], v[:, token : token + 1])

        def call() -> Tensor:
            return decode_attention(q, *newest, ring, window=case.window, impl=impl)  # type: ignore[arg-type]

    with torch.no_grad():
        wide = (x.double() for x in (q, k, v))
        expected = attention(*wide, window=case.window, impl="reference")
        measure.gate(relative_difference(call().double(), expected), tolerance=TOLERANCE)
        measure.rate(call, work=num_envs, unit="tokens/s")
